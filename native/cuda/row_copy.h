#pragma once

// Whole rows moved or added between matrices: what gather_rows, put_rows and copy_2d are made of.

#include "context.h"

namespace allmrec::cuda {

// out[to[i]] = x[from[i]] for i < rows, `element` bytes an element; from and to may be null (i itself), rows
// with to[i] < 0 are left out. Bits are moved as they are.
void copy_rows(Context& context, size_t element, int64_t rows, int64_t cols, const int32_t* from,
               const int32_t* to, const void* x, int64_t ldx, void* out, int64_t ldout);

// y += x, row by row.
void add_rows(Context& context, int32_t dtype, int64_t rows, int64_t cols, const void* x, int64_t ldx,
              void* y, int64_t ldy);

// Blocks of 256 threads over rows of `pieces`: threads are laid along a row up to a power of two, then over
// rows; each thread takes one piece of kRowsInFlight rows.
constexpr int kRowsInFlight = 4;
struct RowTiles {
  dim3 grid, block;
};
inline RowTiles row_tiles(int64_t rows, int64_t pieces) {
  unsigned width = 1;
  while (width < 256 && width < pieces) width *= 2;
  const unsigned height = 256 / width;
  const int64_t across = divide_up(pieces, width);
  return {dim3(static_cast<unsigned>(divide_up(rows, int64_t{height} * kRowsInFlight)),
               static_cast<unsigned>(across < 65535 ? across : 65535)),
          dim3(width, height)};
}

}  // namespace allmrec::cuda
