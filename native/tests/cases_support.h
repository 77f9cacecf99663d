// What the cases of several files make their inputs and bytes with.
#pragma once

#include <cmath>
#include <cstring>

#include "tests/cases.h"

namespace plait::test {

inline std::size_t size(int n) { return static_cast<std::size_t>(n); }

template <class T>
void append(Bytes& bytes, const std::vector<T>& values) {
    const std::size_t before = bytes.size(), n = values.size() * sizeof(T);
    bytes.resize(before + n);
    std::memcpy(bytes.data() + before, values.data(), n);
}

template <class T>
Bytes bytes_of(const std::vector<T>& values) {
    Bytes bytes;
    append(bytes, values);
    return bytes;
}

// Of every magnitude, and the special ones.
inline Floats every_float() {
    Floats x = exact_floats(1009, 20);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::ldexp(x[i], static_cast<int>(i % 60) - 40);
    for (const float special : {0.0f, -0.0f, 65504.0f, 65519.9f, 65520.0f, 1e9f, 6.1e-5f, 5.9e-8f, 2.9e-8f, 1e-41f,
                                -1e-41f, 88.7f, -103.0f, INFINITY, -INFINITY}) {
        x.push_back(special);
    }
    return x;
}

// The cases of attention and of the KV memory.
void add_attention(std::vector<Case>& cases);

}  // namespace plait::test
