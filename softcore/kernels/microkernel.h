// microkernel.h: products of small matrices in registers, for attention.
//
// C (op)= A B in tiles of six rows and four vectors (two where the machine has sixteen registers): every step broadcasts six
// elements of A against four vectors of a row of B, whose elements lie next to each other.  A is addressed by two strides, so that
// its transpose is a matrix like any other.  An element of C is the sum over the steps in their order, each fused where the
// machine can, whatever the tile: that is why blocking never changes a bit.
#pragma once
#include "simd.h"

namespace softcore {
namespace {

enum Mode { STORE, ADD, MERGE };  // c = sum; c + sum; c * kept + sum * taken

template <class A> struct Product {
    A *c; ptrdiff_t c_row;
    const A *a; ptrdiff_t a_row, a_step;
    const A *b; ptrdiff_t b_step;
    ptrdiff_t rows, columns, n;  // columns: a multiple of the vector
    int mode;
    const A *kept, *taken;       // of each row, for MERGE
    const A *next; ptrdiff_t next_step;  // rows to ask for, one a step, while the first are multiplied; or NULL
};

static constexpr ptrdiff_t AHEAD = 8;  // steps by which rows of B are asked for

template <class A, int R, int V> INLINE void register_tile(const Product<A> &p, ptrdiff_t i0, ptrdiff_t j0) {
    constexpr ptrdiff_t L = SOFTCORE_VECTOR / sizeof(A);
    const A *a = p.a + i0 * p.a_row, *b = p.b + j0;
    vec<A> s[R][V] = {};
    const bool other = p.next && i0 == 0;
    const char *ahead = (const char *)(other ? p.next + j0 : b + AHEAD * p.b_step);
    const ptrdiff_t ahead_step = (other ? p.next_step : p.b_step) * (ptrdiff_t)sizeof(A);
    for (ptrdiff_t k = 0; k < p.n; k++, a += p.a_step, b += p.b_step, ahead += ahead_step) {
        vec<A> y[V];
#pragma GCC unroll 4
        for (int line = 0; line < V * SOFTCORE_VECTOR; line += 64) __builtin_prefetch(ahead + line);
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) std::memcpy(&y[v], b + v * L, sizeof y[v]);
#pragma GCC unroll 6
        for (int i = 0; i < R; i++) {
            const vec<A> x = a[i * p.a_row] - vec<A>{};
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) s[i][v] = mad_vector(x, y[v], s[i][v]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < R; i++) {
        A *c = p.c + (i0 + i) * p.c_row + j0;
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) {
            vec<A> old = {};
            if (p.mode != STORE) std::memcpy(&old, c + v * L, sizeof old);
            if (p.mode == ADD) s[i][v] = old + s[i][v];
            if (p.mode == MERGE) s[i][v] = mad_vector(old, p.kept[i0 + i] - vec<A>{}, s[i][v] * (p.taken[i0 + i] - vec<A>{}));
            std::memcpy(c + v * L, &s[i][v], sizeof s[i][v]);
        }
    }
}
template <class A, int V> void column_panel(const Product<A> &p, ptrdiff_t j0) {
    ptrdiff_t i = 0;
    for (; i + 6 <= p.rows; i += 6) register_tile<A, 6, V>(p, i, j0);
    if (i + 4 <= p.rows) { register_tile<A, 4, V>(p, i, j0); i += 4; }
    if (i + 2 <= p.rows) { register_tile<A, 2, V>(p, i, j0); i += 2; }
    if (i < p.rows) register_tile<A, 1, V>(p, i, j0);
}
template <class A> void multiply(const Product<A> &p) {
    constexpr ptrdiff_t L = SOFTCORE_VECTOR / sizeof(A);
    ptrdiff_t j = 0;
    if (SOFTCORE_VECTOR == 64)
        for (; j + 4 * L <= p.columns; j += 4 * L) column_panel<A, SOFTCORE_VECTOR == 64 ? 4 : 2>(p, j);
    for (; j + 2 * L <= p.columns; j += 2 * L) column_panel<A, 2>(p, j);
    for (; j < p.columns; j += L) column_panel<A, 1>(p, j);
}
// The same without the steps of a row whose mark is -0: what B holds there is not read into the sum.
template <class A> INLINE bool is_mark(A x) { return x == 0 && std::signbit(x); }
template <class A> void multiply_marked(const Product<A> &p, const A *mark, ptrdiff_t mark_row, ptrdiff_t mark_step) {
    constexpr ptrdiff_t L = SOFTCORE_VECTOR / sizeof(A);
    Product<A> one = p;
    one.rows = 1;
    one.columns = L;
    for (ptrdiff_t i = 0; i < p.rows; i++)
        for (ptrdiff_t j = 0; j < p.columns; j += L) {
            vec<A> s = {};
            for (ptrdiff_t k = 0; k < p.n; k++) {
                if (is_mark(mark[i * mark_row + k * mark_step])) continue;
                vec<A> y;
                std::memcpy(&y, p.b + k * p.b_step + j, sizeof y);
                s = mad_vector(p.a[i * p.a_row + k * p.a_step] - vec<A>{}, y, s);
            }
            const A unit = 1;  // the sum as a product of one step, for the end of a tile
            A sum[L];
            std::memcpy(sum, &s, sizeof s);
            one.c = p.c + i * p.c_row + j;
            one.a = &unit;
            one.b = sum;
            one.n = 1;
            one.a_row = one.a_step = one.b_step = 0;
            one.kept = p.kept + i;
            one.taken = p.taken + i;
            register_tile<A, 1, 1>(one, 0, 0);
        }
}

}  // namespace
}  // namespace softcore
