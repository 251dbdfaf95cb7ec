// The forward kernel of search_core/kernels/native_depthwise.py in C++, for comparison only: a 5x5 depthwise convolution
// of padded images (N, H + 4, W + 4, C) with a weight (25, C), W a multiple of 8 and C of 16.
#include <cstddef>

typedef float Vector __attribute__((vector_size(64), aligned(4)));

template <int kernel>
static void filter(const float *padded, const float *weight, float *out, int images, int height, int width, int channels) {
    const int row = (width + kernel - 1) * channels;
    for (int n = 0; n < images; n++)
        for (int c = 0; c < channels; c += 16)
            for (int h = 0; h < height; h++)
                for (int w = 0; w < width; w += 8) {
                    Vector tile[8] = {};
                    const float *start = padded + ((size_t)n * (height + kernel - 1) + h) * row + w * channels + c;
                    for (int i = 0; i < kernel; i++)
                        for (int j = 0; j < kernel; j++) {
                            const Vector tap = *(const Vector *)(weight + (i * kernel + j) * channels + c);
                            for (int p = 0; p < 8; p++)
                                tile[p] += *(const Vector *)(start + i * row + (j + p) * channels) * tap;
                        }
                    for (int p = 0; p < 8; p++)
                        *(Vector *)(out + (((size_t)n * height + h) * width + w + p) * channels + c) = tile[p];
                }
}

extern "C" void filter5(const float *padded, const float *weight, float *out, int images, int height, int width, int channels) {
    filter<5>(padded, weight, out, images, height, width, channels);
}
