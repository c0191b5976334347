// What the device does besides the graphs. Compiled by NVRTC with --fmad=false (cuda.py), which writes the
// polynomials of AS 241 in front: one source of coefficients for this and for noise.py.
//
// No kernel has threads wait for each other, so that each can be checked one thread at a time on any machine.

typedef unsigned long long u64;
typedef long long i64;

#define MINUS_INFINITY __int_as_float(0xff800000)

__device__ double horner(const double *c, double r) {
    double value = r * c[7];
    for (int i = 6; i > 0; i--) value = (value + c[i]) * r;
    return value + c[0];
}

__device__ double quantile(i64 k) {
    const double scale = 1.0 / 18446744073709551616.0;
    double q = ((double)k + 0.5) * scale;
    if (fabs(q) <= 0.425) {
        double r = 0.180625 - q * q;
        return horner(CENTRAL[0], r) / horner(CENTRAL[1], r) * q;
    }
    i64 distance = k ^ (k >> 63) ^ 0x7fffffffffffffffLL;
    double r = sqrt(-log(((double)distance + 0.5) * scale));
    double z = r > 5.0 ? horner(FAR[0], r - 5.0) / horner(FAR[1], r - 5.0)
                       : horner(MIDDLE[0], r - 1.6) / horner(MIDDLE[1], r - 1.6);
    return copysign(z, (double)k);
}

// Philox4x64-10 (Salmon et al., SC 2011) at counter (block + 1, sample, stream, 0): noise.raw_integers.
__device__ void philox(u64 block, u64 sample, u64 stream, u64 key0, u64 key1, u64 out[4]) {
    u64 c0 = block + 1, c1 = sample, c2 = stream, c3 = 0;
    for (int round = 0; round < 10; round++) {
        u64 high0 = __umul64hi(0xD2E7470EE14C6C93ULL, c0), low0 = 0xD2E7470EE14C6C93ULL * c0;
        u64 high1 = __umul64hi(0xCA5A826395121157ULL, c2), low1 = 0xCA5A826395121157ULL * c2;
        c0 = high1 ^ c1 ^ key0;
        c1 = low1;
        c2 = high0 ^ c3 ^ key1;
        c3 = low0;
        key0 += 0x9E3779B97F4A7C15ULL;
        key1 += 0xBB67AE8584CAA73BULL;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

// One thread: the four values of one Philox block, for one row.
extern "C" __global__ void noisy_copies(const double *canvas, float *out, u64 values, u64 rows, u64 first, u64 stream,
                                        u64 key0, u64 key1, double scale, double step) {
    u64 thread = (u64)blockIdx.x * blockDim.x + threadIdx.x, blocks = (values + 3) / 4;
    if (thread >= blocks * rows) return;
    u64 row = thread / blocks, block = thread % blocks, raw[4];
    philox(block, first + row, stream, key0, key1, raw);
    for (int i = 0; i < 4; i++) {
        u64 at = 4 * block + i;
        if (at < values)
            out[row * values + at] = (float)((rint(quantile((i64)raw[i]) * scale) + canvas[at] / step) * step);
    }
}

// One thread: one column of two bytes, moved for every pair in order. array is [rows, outer, pitch].
extern "C" __global__ void copy_rows(unsigned short *array, const int *pairs, int count, u64 outer, u64 pitch, u64 start,
                                     u64 width) {
    u64 thread = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= outer * width) return;
    u64 column = thread / width * pitch + start + thread % width;
    for (int i = 0; i < count; i++)
        array[(u64)pairs[2 * i + 1] * outer * pitch + column] = array[(u64)pairs[2 * i] * outer * pitch + column];
}

struct Top {
    float best, second;
    int token;
    int finite;
};

__device__ void take(Top *top, float value, int token) {
    if (top->token < 0 || value > top->best || (value == top->best && token < top->token)) {
        if (top->token >= 0) top->second = top->best;
        top->best = value;
        top->token = token;
    } else if (value > top->second) {
        top->second = value;
    }
}

// One thread: every `segments`th logit of one row. With `starts`, only the tokens listed for the row compete.
extern "C" __global__ void top_of_segments(const float *logits, u64 rows, u64 vocabulary, u64 segments,
                                           const int *allowed, const int *starts, Top *out) {
    u64 thread = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= rows * segments) return;
    u64 row = thread / segments, segment = thread % segments;
    const float *line = logits + row * vocabulary;
    Top top = {MINUS_INFINITY, MINUS_INFINITY, -1, 1};
    for (u64 token = segment; token < vocabulary; token += segments) {
        if (!isfinite(line[token])) top.finite = 0;
        if (!starts) take(&top, line[token], (int)token);
    }
    if (starts)
        for (u64 i = starts[row] + segment; i < starts[row + 1]; i += segments) take(&top, line[allowed[i]], allowed[i]);
    out[thread] = top;
}

// One thread: one row.
extern "C" __global__ void top_of_rows(const Top *parts, u64 rows, u64 segments, Top *out) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    Top top = {MINUS_INFINITY, MINUS_INFINITY, -1, 1};
    for (u64 i = 0; i < segments; i++) {
        Top part = parts[row * segments + i];
        if (!part.finite) top.finite = 0;
        if (part.token < 0) continue;
        take(&top, part.best, part.token);
        if (part.second > top.second) top.second = part.second;
    }
    out[row] = top;
}
