"""NVML without a GPU: its functions, with nvidia-ml-py's own names and errors."""

import pynvml

NOT_SUPPORTED = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


class EmulatedNvml:
    """What nvml.py uses of the module pynvml.

    Attributes:
        answers: what each function returns; an exception is raised; one that is not there does not exist.
        open: calls of nvmlInit without their nvmlShutdown.
    """

    NVMLError = pynvml.NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM = pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU

    def __init__(self, **answers):
        self.answers, self.open, self.asked = answers, 0, []

    def nvmlInit(self):
        if isinstance(failure := self.answers.get("nvmlInit"), Exception):
            raise failure
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetHandleByPciBusId(self, bus):
        self.asked.append(bus)
        return "the GPU"

    def __getattr__(self, name):
        if name not in self.answers:
            raise AttributeError(name)
        assert hasattr(pynvml, name), f"NVML has no {name}"

        def function(gpu, *arguments):
            assert gpu == "the GPU"
            assert self.open > 0, "NVML is used after nvmlShutdown"
            answer = self.answers[name]
            if callable(answer):
                return answer(*arguments)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return function


def orin():
    """NVML on a Jetson Orin: it opens, and supports nothing of what is asked."""
    names = (
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetClockInfo",
        "nvmlDeviceGetTemperatureV",
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
    )
    return EmulatedNvml(**dict.fromkeys(names, NOT_SUPPORTED))
