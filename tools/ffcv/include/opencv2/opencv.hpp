// A substitute for the only OpenCV function that FFCV calls: cv::resize of 8-bit RGB with INTER_AREA.
// With it, building FFCV needs a C++ compiler and libturbojpeg, but not 700 MB of OpenCV.
// tests/test_ffcv_build.py compares it with OpenCV.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#define CV_8UC3 16

namespace cv {

enum InterpolationFlags { INTER_AREA = 3 };

struct Size {
    int width, height;
};

// A view of interleaved 8-bit RGB rows; like OpenCV's Mat from a pointer, it does not own the data.
struct Mat {
    std::uint8_t *data;
    std::ptrdiff_t stride;
    int rows, cols;

    Mat(std::int64_t height, std::int64_t width, int /*type*/, std::uint8_t *pixels)
        : data(pixels), stride(3 * width), rows(static_cast<int>(height)), cols(static_cast<int>(width)) {}

    Mat rowRange(std::int64_t first, std::int64_t last) const { return window(first, last, 0, cols); }
    Mat colRange(std::int64_t first, std::int64_t last) const { return window(0, rows, first, last); }
    Size size() const { return {cols, rows}; }

private:
    Mat window(std::int64_t top, std::int64_t bottom, std::int64_t left, std::int64_t right) const {
        Mat part(*this);
        part.data += top * stride + 3 * left;
        part.rows = static_cast<int>(bottom - top);
        part.cols = static_cast<int>(right - left);
        return part;
    }
};

namespace area {

// The source pixels, with weights, whose weighted mean is one destination pixel.
struct Tap {
    int first;
    std::vector<double> weights;
};

inline Tap shrink(int target, double scale, int length) {
    const double begin = target * scale, end = std::min((target + 1) * scale, double(length));
    const int first = static_cast<int>(begin);
    const int last = std::min(length, static_cast<int>(std::ceil(end - 1e-9)));
    Tap tap{first, {}};
    for (int i = first; i < last; ++i)
        tap.weights.push_back((std::min(i + 1.0, end) - std::max(double(i), begin)) / (end - begin));
    return tap;
}

// When enlarging, OpenCV's INTER_AREA blends two source pixels only where they meet.
inline Tap enlarge(int target, double scale, int length) {
    int first = static_cast<int>(std::floor(target * scale));
    double weight = target + 1 - (first + 1) / scale;
    weight = weight <= 0 ? 0 : weight - std::floor(weight);
    if (first >= length - 1) return {length - 1, {1.0}};
    return {first, {1 - weight, weight}};
}

inline std::vector<Tap> taps(int from, int to, bool shrinks) {
    const double scale = double(from) / to;
    std::vector<Tap> all;
    for (int i = 0; i < to; ++i) all.push_back(shrinks ? shrink(i, scale, from) : enlarge(i, scale, from));
    return all;
}

}  // namespace area

inline void resize(const Mat &source, Mat &target, Size, double, double, int) {
    // OpenCV averages areas only if neither side grows.
    const bool shrinks = target.rows <= source.rows && target.cols <= source.cols;
    const auto rows = area::taps(source.rows, target.rows, shrinks);
    const auto columns = area::taps(source.cols, target.cols, shrinks);
    for (int y = 0; y < target.rows; ++y)
        for (int x = 0; x < target.cols; ++x)
            for (int channel = 0; channel < 3; ++channel) {
                double sum = 0;
                for (std::size_t j = 0; j < rows[y].weights.size(); ++j)
                    for (std::size_t i = 0; i < columns[x].weights.size(); ++i)
                        sum += rows[y].weights[j] * columns[x].weights[i] *
                               source.data[(rows[y].first + std::ptrdiff_t(j)) * source.stride +
                                           3 * (columns[x].first + std::ptrdiff_t(i)) + channel];
                target.data[y * target.stride + 3 * x + channel] =
                    static_cast<std::uint8_t>(std::clamp(std::nearbyint(sum), 0.0, 255.0));
            }
}

}  // namespace cv
