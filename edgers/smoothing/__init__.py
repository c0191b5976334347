"""The statistics of randomized smoothing: numpy and scipy only, nothing else of ours.

Notation: A is the class to certify, n the fresh noisy samples, k those of them voted A, q the probability
that a sample is voted A, alpha the allowed probability of a wrong certificate.
"""
