// exp in float64, within 1 unit in the last place or so of the true value; branch-free, and the same bits in every path.
#pragma once

#include <cstdint>

namespace plait::PLAIT_PATH {
namespace {

inline std::uint64_t bits_of_double(double x) {
    std::uint64_t u;
    __builtin_memcpy(&u, &x, sizeof u);
    return u;
}

inline double double_of(std::uint64_t u) {
    double x;
    __builtin_memcpy(&x, &u, sizeof x);
    return x;
}

// exp(x) for x <= 0, and exactly 0 below -708, where results stop being normal numbers.
// exp(x) = 2^n exp(r) with n = round(x / ln 2); exp(r) = 1 + r + r^2 P(r) for |r| <= ln(2) / 2, P a Chebyshev fit whose
// error is below 2e-17 of the result.
inline double falling_exponential(double x) {
    const double bounded = x < -708.0 ? -708.0 : x;
    const double shifted = bounded * 1.4426950408889634 + 6755399441055744.0;  // 1.5 * 2^52: n in the lowest bits
    const double n = shifted - 6755399441055744.0;
    double r = bounded - n * 0.6931471805592082;  // ln 2 in two parts; n times the first is exact
    r = r - n * 7.371002565167799e-13;
    double p = 2.510038549551032e-08;
    p = p * r + 2.7620088445409746e-07;
    p = p * r + 2.7557268459997064e-06;
    p = p * r + 2.4801521295954376e-05;
    p = p * r + 0.00019841269863053618;
    p = p * r + 0.0013888888917213717;
    p = p * r + 0.008333333333330062;
    p = p * r + 0.04166666666662413;
    p = p * r + 0.16666666666666669;
    p = p * r + 0.5;
    p = (p * (r * r) + r) + 1.0;
    const double result = p * double_of((bits_of_double(shifted) + 1023u) << 52);
    return x < -708.0 ? 0.0 : result;
}

}  // namespace
}  // namespace plait::PLAIT_PATH
