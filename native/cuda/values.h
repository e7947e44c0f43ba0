#pragma once

// Pieces of V consecutive values between memory and float32 registers: what the row and element kernels are
// written in. V = 1 asks nothing of an address; V = 4 or 8 asks for 16 bytes and moves 16 bytes at a time.

#include "numeric.h"
#include "philox.h"

namespace allmrec::cuda {

template <int V, typename T>
__device__ __forceinline__ void load_values(const T* p, float (&out)[V]) {
  if constexpr (V == 1) {
    out[0] = to_float(*p);
  } else {
    constexpr int kSize = Vector<T>::size;
    static_assert(V % kSize == 0, "whole vectors");
#pragma unroll
    for (int i = 0; i < V; i += kSize) {
      const Vector<T> v = load_vector(p + i);
#pragma unroll
      for (int j = 0; j < kSize; ++j) out[i + j] = to_float(v.value[j]);
    }
  }
}

template <int V, typename T>
__device__ __forceinline__ void store_values(T* p, const float (&x)[V]) {
  if constexpr (V == 1) {
    *p = from_float<T>(x[0]);
  } else {
    constexpr int kSize = Vector<T>::size;
    static_assert(V % kSize == 0, "whole vectors");
#pragma unroll
    for (int i = 0; i < V; i += kSize) {
      Vector<T> v;
#pragma unroll
      for (int j = 0; j < kSize; ++j) v.value[j] = from_float<T>(x[i + j]);
      store_vector(p + i, v);
    }
  }
}

// p[0 … V) = x, or += x.
template <int V, typename T>
__device__ __forceinline__ void put_values(T* p, float (&x)[V], bool accumulate) {
  if (accumulate) {
    float before[V];
    load_values<V>(p, before);
#pragma unroll
    for (int j = 0; j < V; ++j) x[j] += before[j];
  }
  store_values<V>(p, x);
}

// What V elements from `element` on, a multiple of V, are multiplied by: one call of Philox at most.
template <int V>
__device__ __forceinline__ void dropout_factors(const Dropout& dropout, uint64_t element,
                                                float (&factor)[V]) {
  static_assert(V == 1 || V == 4 || V == 8, "within one counter");
  if (dropout.threshold == 0) {
#pragma unroll
    for (int j = 0; j < V; ++j) factor[j] = dropout.scale;
    return;
  }
  PhiloxWords words = philox(dropout.seed, dropout.stream, element / 8);
  // The wanted bits are moved to the front by selects: an index known only at run time would send the words
  // through local memory.
  if (V <= 4 && element % 8 >= 4) {
    words.word[0] = words.word[2];
    words.word[1] = words.word[3];
  }
  if (V == 1 && element % 4 >= 2) words.word[0] = words.word[1];
  if (V == 1 && element % 2 == 1) words.word[0] >>= 16;
#pragma unroll
  for (int j = 0; j < V; ++j) factor[j] = dropout_bits(words, j) >= dropout.threshold ? dropout.scale : 0.0f;
}

}  // namespace allmrec::cuda
