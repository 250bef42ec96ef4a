// common.cl: what every .cl file is compiled behind: vectors, operands and the walk over them, exact sums, exp and log.
//
// One source serves CPUs and GPUs. softcore/planner.py chooses, and softcore/opencl/ defines:
//
//   OP_name           the kernel that is wanted: each is compiled alone, for the dtypes and the layout of a call
//   INPUTS, OUTPUTS   how many operands it has, then the mask
//   WG, ROWS          work-items that share a row, and rows that a work-group works on side by side
//   VEC               elements worked on together
//   ACC, SIGNED       the type of arithmetic, and signed integers of its width; REAL is the floating type of scalar arguments
//   IN0, READ0, ...   the type in memory of each input, and how it is read: same (as ACC), convert, each (one by one), half,
//                     bfloat16
//   OUT0, WRITE0, ... the same of each output
//   STRIDED           rows are not all contiguous: elements are gathered one by one, into the same vectors
//   FOLLOWING         where an op is element-wise, bits of the operands whose elements follow each other nevertheless, and SPREAD_OUT of
//                     those that have one for all
//   COLUMNS           rows lie side by side, and a work-item takes VEC of them: element j of each in one vector
//   MASKED            some elements take no part
//   PART, STAGE       rows are so long that work-groups share one, PART elements each: in stage 1 each leaves a state, or a sum, of its
//                     part, and in stage 2 each joins those of the row in their order
//   LOOSE             vectors may be loaded by a cast, which CPU runtimes inline and vload they do not
//   FUSED             the device has fused multiply-add: MAD(a, b, c) is rounded once
//
// What adds elements adds them in an order that WG, VEC and the length of the row alone decide.
#pragma OPENCL FP_CONTRACT OFF

#ifndef ACC
#define ACC float
#define SIGNED int
#define REAL float
#define VEC 4
#define WG 1
#define ROWS 1
#define INPUTS 0
#define OUTPUTS 0
#define FLOAT
#endif

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
typedef PASTE(ACC, VEC) V;     // elements
typedef PASTE(SIGNED, VEC) I;  // as integers, and the truth about each
// Compilers for CPUs leave a function that is called twice out of line, and its vectors go through memory. Oclgrind, which is told not
// to optimize, knows nothing of what inlining leaves behind.
#ifdef __OPTIMIZE__
#define FUNCTION static inline __attribute__((always_inline))
#else
#define FUNCTION static inline
#endif
#define RARE static __attribute__((noinline))  // what is seldom called keeps its constants out of the registers of others
#define KERNEL(name) __kernel void softcore_##name  // max and step are functions of OpenCL C
#define CONSTANT(c) ((V)((ACC)(c)))
#if WG * ROWS == 1 && !defined(COLUMNS) && !defined(PART) && \
    (defined(OP_softmax) || defined(OP_log_softmax) || (defined(OP_logsumexp) && !defined(WEIGHTED)))
#define BATCHED  // a work-item takes several rows a step further before it takes the next
#endif
// A number for each row that a work-item takes, and as a vector.
#if defined(COLUMNS) || defined(BATCHED)
typedef V R;
#define SPLAT(r) (r)
#else
typedef ACC R;
#define SPLAT(r) CONSTANT(r)
#endif
#ifdef COLUMNS
#define CHAINS VEC  // of additions: element j goes to chain j mod VEC, as it goes to that lane elsewhere
#else
#define CHAINS 1
#endif
#define ZERO CONSTANT(0)
#define ONE CONSTANT(1)
// a b + c. An x86 without fused multiply-add would call a function for each element.
#if defined(FUSED) && (defined(__FMA__) || !defined(__x86_64__))
#define HAS_FMA
// A compiler that calls a function for fma: softmax of 4096 x 1024 on PoCL 3.0 5.6 to 2.1 ms. Of one work-item a
// group, as on its CPUs.
#if defined(CONTRACTS) && WG == 1
#define MAD(a, b, c) ({ _Pragma("OPENCL FP_CONTRACT ON") (a) * (b) + (c); })
#else
#define MAD(a, b, c) fma(a, b, c)
#endif
#else
#define MAD(a, b, c) ((a) * (b) + (c))
#endif

// ---------------------------------------------------------------- operands

#define DIMS 8
#ifdef MASKED
#define ARGS (INPUTS + OUTPUTS + 1)
#else
#define ARGS (INPUTS + OUTPUTS)
#endif
// Outer dimensions first, then those along the row; strides in elements.
typedef struct { long offset, stride[DIMS]; } Operand;
typedef struct {
    long rows, n;
    int nouter, nlength;
    long shape[DIMS];
    long option;  // of kernels that are not compiled for each value of it
    Operand arg[ARGS];
    REAL number[6];
    long streaming;  // whether results are too many for the cache
    long width;  // with COLUMNS, how many rows there are for a vector; with BATCHED how many are taken a step further at once
} Task;

// Where row r of operands 0 to ARGS - 1 starts.
FUNCTION bool enter(const Task *t, long r, long *at) {
    for (int i = 0; i < ARGS; i++) at[i] = t->arg[i].offset;
    for (int d = t->nouter - 1; d >= 0; d--) {
        const long k = d ? r % t->shape[d] : r;
        if (d) r /= t->shape[d];
        for (int i = 0; i < ARGS; i++) at[i] += k * t->arg[i].stride[d];
    }
    return true;
}
// Where element j of a row lies.
FUNCTION long place(const Task *t, int i, long j) {
    const int first = t->nouter, last = first + t->nlength - 1;
    long p = 0;
    if (t->nlength == 0) return 0;
    for (int d = last; d > first; d--) {
        p += j % t->shape[d] * t->arg[i].stride[d];
        j /= t->shape[d];
    }
    return p + j * t->arg[i].stride[first];
}

// A work-group takes the rows `first` to `last`, ROWS of them at a time. Each of its work-items passes this loop as often as the
// others, as barriers demand, with n = 0 where there is no row left.
#ifdef COLUMNS
#define FOR_ROWS                                                                                                       \
    const long inner = t->shape[t->nouter - 1], slabs = (inner + VEC - 1) / VEC, units = t->rows / inner * slabs;      \
    const long groups = get_num_groups(1), n = t->n;                                                                   \
    long at[ARGS];                                                                                                     \
    for (long u = units * get_group_id(1) / groups; u < units * (get_group_id(1) + 1) / groups; u++)                   \
        if (enter(t, u / slabs * inner + u % slabs * VEC, at) && (task.width = min((long)VEC, inner - u % slabs * VEC)))
// SLAB vectors of them at a time, `count` where there are fewer, or one that is not whole.
#define FOR_SLABS                                                                                                      \
    const long wide = SLAB * VEC, inner = t->shape[t->nouter - 1], slabs = (inner + wide - 1) / wide, n = t->n;        \
    const long units = t->rows / inner * slabs, groups = get_num_groups(1);                                            \
    long at[ARGS];                                                                                                     \
    for (long u = units * get_group_id(1) / groups; u < units * (get_group_id(1) + 1) / groups; u++)                   \
        for (long c = u % slabs * wide, stop = min(inner, c + wide), count; c < stop; c += task.width * count)         \
            if (enter(t, u / slabs * inner + c, at) && (task.width = min((long)VEC, stop - c)) && (count = max(1L, (stop - c) / VEC)))
#elif defined(PART)
#define FOR_ROWS                                                                                                       \
    const long parts = (t->n + PART - 1) / PART, units = t->rows * parts, groups = get_num_groups(1);                  \
    long at[ARGS], row, part, begin, n;                                                                                \
    for (long unit = units * get_group_id(1) / groups; unit < units * (get_group_id(1) + 1) / groups; unit++)          \
        if (row = unit / parts, part = unit % parts, begin = part * PART, n = min(t->n, begin + PART), enter(t, row, at))
#define STATES_PARAMETER , __global ACC *states
#define STATE_OF(part) (states + 4 * (row * parts + (part)))
#else
#define FOR_ROWS                                                                                                       \
    const long groups = get_num_groups(1), first = t->rows * get_group_id(1) / groups;                                 \
    const long last = t->rows * (get_group_id(1) + 1) / groups;                                                        \
    long at[ARGS];                                                                                                     \
    for (long base = first, row = base + get_local_id(1), n = row < last ? t->n : 0; base < last;                      \
         base += ROWS, row += ROWS, n = row < last ? t->n : 0)                                                         \
        if (enter(t, row, at))
#endif
#ifdef PART
#define BEGIN begin  // where the elements of a row start that a work-group takes
#else
#define BEGIN 0
#define STATES_PARAMETER
#endif
// For element-wise functions: a work-group takes CHUNK elements of a row at a time, from `begin` to `last`.
#define FOR_CHUNKS                                                                                                     \
    const long chunks = (t->n + CHUNK - 1) / CHUNK, units = t->rows * chunks, groups = get_num_groups(1);              \
    long at[ARGS], begin, last;                                                                                        \
    for (long unit = units * get_group_id(1) / groups; unit < units * (get_group_id(1) + 1) / groups; unit++)          \
        if (begin = unit % chunks * CHUNK, last = min(t->n, begin + CHUNK), enter(t, unit / chunks, at))
// `j` is where a vector starts, `n` where the chunk ends; for a whole vector so large that every test for the end goes away.
#define OVER_CHUNK(...)                                                                                                \
    {                                                                                                                  \
        long j = begin + LANE * VEC;                                                                                   \
        _Pragma("unroll 2") for (; j + VEC <= last; j += STEP) {                                                       \
            const long n = LONG_MAX;                                                                                   \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
        for (const long n = last; j < n; j += STEP) { __VA_ARGS__ }                                                    \
    }
#define OVER_UNITS(...)                                                                                                \
    const Task *t = &task;                                                                                             \
    FOR_CHUNKS OVER_CHUNK(__VA_ARGS__)

#define LANE ((long)get_local_id(0))
// Over the vectors of a tile, which are to stay in registers.
#define FOUR(k) _Pragma("unroll") for (int k = 0; k < 4; k++)
// The elements j to j + VEC of a row that this work-item takes, four vectors to a tile.
#define STEP (WG * VEC)
#define TILE (4 * STEP)

// Calls a function on each tile, whose `end` is n: for a whole tile so large that every test for the end of the row goes away.
#ifdef COLUMNS
#define OVER_TILES(call)                                                                                               \
    for (long tile = 0; tile < n; tile += TILE)                                                                        \
        for (int chain = 0; chain < VEC; chain++) {                                                                    \
            const long j = tile + chain, end = n;                                                                      \
            call;                                                                                                      \
        }
#else
#define OVER_TILES(call)                                                                                               \
    {                                                                                                                  \
        const int chain = 0;                                                                                           \
        long j = BEGIN + LANE * VEC;                                                                                   \
        for (; j + TILE - STEP + VEC <= n; j += TILE) {                                                                \
            const long end = LONG_MAX;                                                                                 \
            call;                                                                                                      \
        }                                                                                                              \
        for (const long end = n; j < n; j += TILE) call;                                                               \
    }
#endif

// Asks for what is read or written later: OpenCL C has prefetch, which does nothing in PoCL, compilers made of clang have this. A CPU sees
// what follows in a row, but neither the next row of several that it works on, nor far enough ahead where much is done with an element.
#if defined(LOOSE) && !defined(STRIDED) && defined(__OPTIMIZE__) && defined(__has_builtin)
#if __has_builtin(__builtin_prefetch)
#define SOON(p) __builtin_prefetch(p)
#define SOON_WRITTEN(p) __builtin_prefetch(p, 1)
#endif
#endif
#ifndef SOON
#define SOON(p)
#define SOON_WRITTEN(p)
#endif
#define MEANWHILE  // what a file asks for as it goes over a row

#define LANES(k, count) _Pragma("unroll") for (int k = 0; k < count; k++)

#define LOOSE_V(T) PASTE(loose_, T)
#ifdef LOOSE
#define DEFINE_LOOSE(T) typedef PASTE(T, VEC) __attribute__((aligned(sizeof(T)))) LOOSE_V(T);
#define VLOAD(T, p) (*(const __global LOOSE_V(T) *)(p))
#define VSTORE(T, v, p) (*(__global LOOSE_V(T) *)(p) = (v))
DEFINE_LOOSE(ACC)
// PoCL takes the pointers of vload_half and vstore_half for aligned ones, which those of variables are; and it calls a function for each,
// around which every register is saved, where the compiler has an instruction.
typedef PASTE(ushort, VEC) __attribute__((aligned(2))) LooseHalves;
#if defined(__F16C__) && VEC == 8 && !defined(DOUBLE) && defined(__OPTIMIZE__)
typedef short HalfBits __attribute__((vector_size(16)));
FUNCTION float8 load_halves(const __global half *p) {
    float8 v = __builtin_astype(__builtin_ia32_vcvtph2ps256(__builtin_astype(*(const __global LooseHalves *)p, HalfBits)), float8);
    __asm__("" : "+x"(v));  // or else halves are compared, for which there is no instruction
    return v;
}
FUNCTION void store_halves(float8 v, __global half *p) {
    *(__global LooseHalves *)p = __builtin_astype(__builtin_ia32_vcvtps2ph256(v, 0), ushort8);
}
#else
FUNCTION PASTE(float, VEC) load_halves(const __global half *p) {
    const PASTE(ushort, VEC) bits = *(const __global LooseHalves *)p;
    return PASTE(vload_half, VEC)(0, (const half *)&bits);
}
#ifdef DOUBLE
#define HALVES_OF V
#else
#define HALVES_OF PASTE(float, VEC)
#endif
FUNCTION void store_halves(HALVES_OF v, __global half *p) {
    PASTE(ushort, VEC) bits;
    PASTE(PASTE(vstore_half, VEC), _rte)(v, 0, (half *)&bits);
    *(__global LooseHalves *)p = bits;
}
#endif
#else
#define load_halves(p) PASTE(vload_half, VEC)(0, p)
#define store_halves(v, p) PASTE(PASTE(vstore_half, VEC), _rte)(v, 0, p)
#define VLOAD(T, p) PASTE(vload, VEC)(0, p)
#define VSTORE(T, v, p) PASTE(vstore, VEC)(v, 0, p)
#endif
#define VECTOR_same(p) VLOAD(ACC, p)
#define VECTOR_convert(p) PASTE(convert_, V_NAME)(PASTE(vload, VEC)(0, p))
#define VECTOR_half(p) PASTE(convert_, V_NAME)(load_halves(p))
#define VECTOR_bfloat16(p) PASTE(convert_, V_NAME)(PASTE(as_float, VEC)(PASTE(convert_uint, VEC)(PASTE(vload, VEC)(0, p)) << 16))
#define V_NAME PASTE(ACC, VEC)
#define VECTOR_each(p) ZERO  // never
#define BY_VECTOR_same 1
#define BY_VECTOR_convert 1
#define BY_VECTOR_half 1
#define BY_VECTOR_bfloat16 1
#define BY_VECTOR_each 0
#define SCALAR_each(p) SCALAR_convert(p)
#define SCALAR_same(p) (*(p))
#define SCALAR_convert(p) ((ACC)*(p))
#define SCALAR_half(p) ((ACC)vload_half(0, p))
#define SCALAR_bfloat16(p) ((ACC)as_float((uint)*(p) << 16))
#define PUT_VECTOR_same(T, v, p) VSTORE(ACC, v, p)
#define PUT_VECTOR_half(T, v, p) store_halves(v, p)
#define PUT_VECTOR_convert(T, v, p) PASTE(vstore, VEC)(PASTE(convert_, PASTE(T, VEC))(v), 0, p)
#define PUT_VECTOR_bfloat16(T, v, p) PASTE(vstore, VEC)(to_bfloat16s(v), 0, p)
#define PUT_VECTOR_each(T, v, p) PUT_VECTOR_convert(T, v, p)
#define PUT_SCALAR_each(v, p) PUT_SCALAR_convert(v, p)
#define PUT_SCALAR_same(v, p) (*(p) = (v))
#define PUT_SCALAR_convert(v, p) (*(p) = (v))
#define PUT_SCALAR_half(v, p) vstore_half_rte(v, 0, p)
#define PUT_SCALAR_bfloat16(v, p) (*(p) = to_bfloat16(v))

FUNCTION ushort to_bfloat16(float v) {
    const uint u = as_uint(v);
    return v != v ? (ushort)0x7fc0 : (ushort)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
FUNCTION PASTE(ushort, VEC) to_bfloat16s(V v) {
    PASTE(ushort, VEC) r;
    for (int i = 0; i < VEC; i++) ((ushort *)&r)[i] = to_bfloat16((float)((ACC *)&v)[i]);
    return r;
}

typedef ACC Lanes1;
typedef PASTE(ACC, 2) Lanes2;
typedef PASTE(ACC, 4) Lanes4;
typedef PASTE(ACC, 8) Lanes8;
typedef PASTE(ACC, 16) Lanes16;
typedef SIGNED Bits1;
typedef PASTE(SIGNED, 2) Bits2;
typedef PASTE(SIGNED, 4) Bits4;
typedef PASTE(SIGNED, 8) Bits8;

// The first `count` elements of a vector, in pieces: a masked store covers what the next row begins with, whose loads would wait for it.
#if defined(LOOSE) && !defined(STRIDED)
#define DEFINE_PIECE(w) typedef Lanes##w __attribute__((aligned(sizeof(ACC)))) Piece##w;
DEFINE_PIECE(1)
DEFINE_PIECE(2)
DEFINE_PIECE(4)
DEFINE_PIECE(8)
#define PUT_PIECE(w)                                                                                                   \
    if (count & w) {                                                                                                   \
        *(__global Piece##w *)(p + k) = *(const Piece##w *)(e + k);                                                    \
        k += w;                                                                                                        \
    }
FUNCTION void put_pieces(V v, __global ACC *p, long count) {
    const ACC *e = (const ACC *)&v;
    int k = 0;
    PUT_PIECE(8)
    PUT_PIECE(4)
    PUT_PIECE(2)
    PUT_PIECE(1)
}
// They are read in pieces too, each into one half of what is left, so that they never leave the registers.
FUNCTION Lanes2 pieces2(const __global ACC *p, long count, ACC fill) {
    Lanes2 v = fill;
    if (count & 1) v.x = *p;
    return v;
}
#define DEFINE_PIECES(w, h)                                                                                            \
    FUNCTION Lanes##w pieces##w(const __global ACC *p, long count, ACC fill) {                                         \
        Lanes##w v = fill;                                                                                             \
        if (count & h) {                                                                                               \
            v.lo = *(const __global Piece##h *)p;                                                                      \
            v.hi = pieces##h(p + h, count, fill);                                                                      \
        } else {                                                                                                       \
            v.lo = pieces##h(p, count, fill);                                                                          \
        }                                                                                                              \
        return v;                                                                                                      \
    }
DEFINE_PIECES(4, 2)
DEFINE_PIECES(8, 4)
DEFINE_PIECES(16, 8)
FUNCTION V pieces(const __global ACC *p, long count, ACC fill) {
    return count > 0 ? PASTE(pieces, VEC)(p, count, fill) : CONSTANT(fill);
}
#define BY_PIECES_same 1
#else
#define pieces(p, count, fill) CONSTANT(fill)
#define put_pieces(v, p, count)
#define BY_PIECES_same 0
#endif
#define BY_PIECES_convert 0
#define BY_PIECES_each 0
#define BY_PIECES_half 0
#define BY_PIECES_bfloat16 0

// Elements j to j + VEC of input i, `fill` past the end; with COLUMNS element j of each row.
#ifdef COLUMNS
#define WHOLE(n, j) (t->width == VEC && (j) < (n))
#define COUNT_IN_ROW(n, j) ((j) < (n) ? t->width : 0)
#define AT(t, i, j) ((j) * t->arg[i].stride[t->nouter])
#define LANE_AT(t, i, j, k) (AT(t, i, j) + (k))
#elif defined(STRIDED)
#define WHOLE(n, j) 0
#define COUNT_IN_ROW(n, j) ((j) + VEC <= (n) ? VEC : (n) - (j))  // known where `n` is that of whole vectors
#ifdef FOLLOWING
#define AT(t, i, j) ((j) * t->arg[i].stride[t->nouter])
#else
#define AT(t, i, j) place(t, i, j)
#endif
#define LANE_AT(t, i, j, k) AT(t, i, (j) + (k))
#else
#define WHOLE(n, j) ((j) + VEC <= (n))
#define COUNT_IN_ROW(n, j) ((n) - (j))
#define AT(t, i, j) (j)
#define LANE_AT(t, i, j, k) ((j) + (k))
#endif
// What input i has for a row, or for each.
#ifdef COLUMNS
#define DEFINE_OF_ROW(i, T)                                                                                            \
    FUNCTION R of_row##i(const Task *t, const __global T *p, long n) {                                                 \
        R r = CONSTANT(0);                                                                                             \
        for (int e = 0; e < t->width; e++) ((ACC *)&r)[e] = value##i(p + e * t->arg[i].stride[t->nouter - 1]);         \
        return r;                                                                                                      \
    }
#else
#define DEFINE_OF_ROW(i, T)                                                                                            \
    FUNCTION R of_row##i(const Task *t, const __global T *p, long n) { return n ? value##i(p) : 0; }
#endif
#ifdef FOLLOWING
#define FOLLOWS(i, n, j) (FOLLOWING >> (i)&1 && (j) + VEC <= (n))
#define IS_SPREAD(i, n, j) (SPREAD_OUT >> (i)&1 && (j) + VEC <= (n))
#else
#define FOLLOWS(i, n, j) WHOLE(n, j)
#define IS_SPREAD(i, n, j) 0
#endif
#define DEFINE_INPUT(i, T, READ)                                                                                       \
    FUNCTION V take##i(const Task *t, const __global T *row, long j, long n, ACC fill) {                                 \
        if (FOLLOWS(i, n, j) && PASTE(BY_VECTOR_, READ)) return PASTE(VECTOR_, READ)(row + AT(t, i, j));               \
        if (IS_SPREAD(i, n, j)) return CONSTANT(PASTE(SCALAR_, READ)(row));                                            \
        if (PASTE(BY_PIECES_, READ)) return pieces((const __global ACC *)(row + AT(t, i, j)), COUNT_IN_ROW(n, j), fill); \
        V v = CONSTANT(fill);                                                                                          \
        for (int k = 0; k < VEC; k++)                                                                                  \
            if (k < COUNT_IN_ROW(n, j)) ((ACC *)&v)[k] = PASTE(SCALAR_, READ)(row + LANE_AT(t, i, j, k));              \
        return v;                                                                                                      \
    }                                                                                                                  \
    FUNCTION ACC value##i(const __global T *p) { return PASTE(SCALAR_, READ)(p); }                                      \
    DEFINE_OF_ROW(i, T)
// The same of output k, which is operand i.
#define DEFINE_OUTPUT(k, T, WRITE)                                                                                     \
    FUNCTION void put##k(const Task *t, __global T *row, long j, long n, V v) {                                          \
        if (FOLLOWS(INPUTS + k, n, j)) {                                                                               \
            PASTE(PUT_VECTOR_, WRITE)(T, v, row + AT(t, INPUTS + k, j));                                               \
            return;                                                                                                    \
        }                                                                                                              \
        if (PASTE(BY_PIECES_, WRITE)) {                                                                                \
            if (COUNT_IN_ROW(n, j) > 0) put_pieces(v, (__global ACC *)(row + AT(t, INPUTS + k, j)), COUNT_IN_ROW(n, j)); \
            return;                                                                                                    \
        }                                                                                                              \
        for (int e = 0; e < VEC; e++)                                                                                  \
            if (e < COUNT_IN_ROW(n, j)) PASTE(PUT_SCALAR_, WRITE)(((ACC *)&v)[e], row + LANE_AT(t, INPUTS + k, j, e));        \
    }                                                                                                                  \
    FUNCTION void set##k(__global T *p, ACC v) { PASTE(PUT_SCALAR_, WRITE)(v, p); }
#if INPUTS > 0
DEFINE_INPUT(0, IN0, READ0)
#endif
#if INPUTS > 1
DEFINE_INPUT(1, IN1, READ1)
#endif
#if INPUTS > 2
DEFINE_INPUT(2, IN2, READ2)
#endif
#if INPUTS > 3
DEFINE_INPUT(3, IN3, READ3)
#endif
#if INPUTS > 4
DEFINE_INPUT(4, IN4, READ4)
#endif
#if INPUTS > 5
DEFINE_INPUT(5, IN5, READ5)
#endif
#if INPUTS > 6
DEFINE_INPUT(6, IN6, READ6)
#endif
#if OUTPUTS > 0
DEFINE_OUTPUT(0, OUT0, WRITE0)
#endif
#if OUTPUTS > 1
DEFINE_OUTPUT(1, OUT1, WRITE1)
#endif
#if OUTPUTS > 2
DEFINE_OUTPUT(2, OUT2, WRITE2)
#endif

// Results past the cache, if they are `streaming`: then nothing is read because it will be written, nor loses its place to it. That
// takes vectors that begin where a line does, or half of one: `streams` asks it of a row.
#ifdef COLUMNS
#define NEXT_VECTOR 1  // from one of a row to the next, in elements
#else
#define NEXT_VECTOR VEC
#endif
#define STREAMS_same 1
#define STREAMS_convert 0
#define STREAMS_each 0
#define STREAMS_half 0
#define STREAMS_bfloat16 0
#if OUTPUTS > 0 && defined(LOOSE) && !defined(STRIDED) && defined(__OPTIMIZE__) && defined(__has_builtin)
#if __has_builtin(__builtin_nontemporal_store)
#define CAN_STREAM
#endif
#endif
// A tile goes at once: a compiler computes what is sent by itself after the test that comes before it, and four exponentials one by one.
// `bring` sends where `streams` says so, for what asks it of each vector. gate_backward, which writes three results, gained nothing by it.
#ifdef CAN_STREAM
#define DEFINE_SEND(k)                                                                                                 \
    FUNCTION bool streams##k(const Task *t, const __global OUT##k *row) {                                              \
        const size_t apart = AT(t, INPUTS + k, NEXT_VECTOR) * sizeof(ACC);                                             \
        return PASTE(STREAMS_, WRITE##k) && t->streaming && ((size_t)row | apart) % sizeof(V) == 0;                    \
    }                                                                                                                  \
    FUNCTION void send##k(const Task *t, __global OUT##k *row, long j, long n, V v, bool past) {                       \
        if (past && WHOLE(n, j)) __builtin_nontemporal_store(v, (__global V *)(row + AT(t, INPUTS + k, j)));           \
        else put##k(t, row, j, n, v);                                                                                  \
    }                                                                                                                  \
    FUNCTION void send_tile##k(const Task *t, __global OUT##k *row, long j, long n, const V *v, bool past) {           \
        if (past && WHOLE(n, j + 3 * STEP))                                                                            \
            FOUR(i) __builtin_nontemporal_store(v[i], (__global V *)(row + AT(t, INPUTS + k, j + i * STEP)));          \
        else FOUR(i) put##k(t, row, j + i * STEP, n, v[i]);                                                            \
    }
#else
#define DEFINE_SEND(k)                                                                                                 \
    FUNCTION bool streams##k(const Task *t, const __global OUT##k *row) { return false; }                              \
    FUNCTION void send##k(const Task *t, __global OUT##k *row, long j, long n, V v, bool past) { put##k(t, row, j, n, v); } \
    FUNCTION void send_tile##k(const Task *t, __global OUT##k *row, long j, long n, const V *v, bool past) {           \
        FOUR(i) put##k(t, row, j + i * STEP, n, v[i]);                                                                 \
    }
#endif
#define DEFINE_BRING(k)                                                                                                \
    DEFINE_SEND(k)                                                                                                     \
    FUNCTION void bring##k(const Task *t, __global OUT##k *row, long j, long n, V v) { send##k(t, row, j, n, v, streams##k(t, row)); } \
    FUNCTION void bring_tile##k(const Task *t, __global OUT##k *row, long j, long n, const V *v) {                     \
        send_tile##k(t, row, j, n, v, streams##k(t, row));                                                             \
    }
#if OUTPUTS > 0
DEFINE_BRING(0)
#endif
#if OUTPUTS > 1
DEFINE_BRING(1)
#endif

// Output k of a row, or of each row.
#ifdef COLUMNS
#define SET(k, p, r)                                                                                                   \
    {                                                                                                                  \
        R of_rows = r;                                                                                                 \
        for (int e = 0; e < t->width; e++)                                                                             \
            PASTE(set, k)((p) + e * t->arg[INPUTS + k].stride[t->nouter - 1], ((ACC *)&of_rows)[e]);                   \
    }
#elif defined(BATCHED)
#define SET(k, p, r)                                                                                                   \
    {                                                                                                                  \
        R of_rows = r;                                                                                                 \
        for (int e = 0; e < now->count; e++) {                                                                         \
            const long *at = now->at[e];                                                                               \
            PASTE(set, k)(p, ((ACC *)&of_rows)[e]);                                                                    \
        }                                                                                                              \
    }
#else
#define SET(k, p, r)                                                                                                   \
    if (LANE == 0 && n) PASTE(set, k)(p, r);
#endif

// What takes part. The mask is the last operand.
#define MASK (ARGS - 1)
#ifdef MASKED
#define MASK_PARAMETER , const __global uchar *mask
#define MASK_ARGUMENT , mask
#define MASK_AT(at) , mask + (at)[MASK]
#define MASK_ROW MASK_AT(at)
// The mask of rows that follow in COLUMNS.
#define MASK_VECTOR(w) , mask + at[MASK] + (w) * VEC * t->arg[MASK].stride[t->nouter - 1]
FUNCTION I mask_of(const Task *t, const __global uchar *row, long j, long n) {
    I m = (I)(0);
#ifdef COLUMNS
    for (int k = 0; k < VEC; k++)
        if (k < COUNT_IN_ROW(n, j)) ((SIGNED *)&m)[k] = row[place(t, MASK, j) + k * t->arg[MASK].stride[t->nouter - 1]] ? -1 : 0;
#else
    for (int k = 0; k < VEC; k++)
        if (j + k < n) ((SIGNED *)&m)[k] = row[place(t, MASK, j + k)] ? -1 : 0;
#endif
    return m;
}
#define HIDE(v, j, fill) (mask_of(t, mask, j, n) ? (v) : CONSTANT(fill))
#else
#define MASK_PARAMETER
#define MASK_ARGUMENT
#define MASK_AT(at)
#define MASK_ROW
#define MASK_VECTOR(w)
#define HIDE(v, j, fill) (v)
#endif

// ---------------------------------------------------------------- one number out of many

// Over the lanes of a vector, then over the work-items of a row, in trees.
#if WG > 1
#define SCRATCH(T, name) __local T name[WG * ROWS];
#define OVER_GROUP(name, a, expression)                                                                                \
    {                                                                                                                  \
        const int own = get_local_id(1) * WG + LANE;                                                                   \
        name[own] = a;                                                                                                 \
        barrier(CLK_LOCAL_MEM_FENCE);                                                                                  \
        for (int w = WG / 2; w; w /= 2) {                                                                              \
            if (LANE < w) {                                                                                            \
                const int other = own + w;                                                                             \
                name[own] = expression;                                                                                \
            }                                                                                                          \
            barrier(CLK_LOCAL_MEM_FENCE);                                                                              \
        }                                                                                                              \
        a = name[get_local_id(1) * WG];                                                                                \
        barrier(CLK_LOCAL_MEM_FENCE);                                                                                  \
    }
#else
#define SCRATCH(T, name)
#define OVER_GROUP(name, a, expression)
#endif

// a where it is larger or NaN, else b: a NaN in either stays.
#define LARGER(a, b) ((((a) > (b)) | ((a) != (a))) ? (a) : (b))

// Halves of vectors are put together until a number is left. Loops over lanes would leave the registers.
#define HALVES_2(halve) halve(2, 1)
#define HALVES_4(halve) halve(4, 2) HALVES_2(halve)
#define HALVES_8(halve) halve(8, 4) HALVES_4(halve)
#define HALVES_16(halve) halve(16, 8) HALVES_8(halve)
#define HALVES PASTE(HALVES_, VEC)
#define V_LANES PASTE(v, VEC)  // what the first of them is called

// By casts: Oclgrind takes what .hi and .lo give for uninitialised.
#define HALF(h, v, i) (((const Lanes##h *)&(v))[i])
#define HALVE_LARGEST(w, h) const Lanes##h v##h = HALF(h, v##w, 1) > HALF(h, v##w, 0) ? HALF(h, v##w, 1) : HALF(h, v##w, 0);
#ifdef BATCHED
// What the lanes of VEC vectors come to, one for each row, in the lanes of one vector. Halves are put together as in HALVES, those of two
// vectors at a time: their lanes take turns.
#define HALF_2 1
#define HALF_4 2
#define HALF_8 4
#define HALF_16 8
FUNCTION V both(V a, V b, int which) {
    V v = ZERO;
    v.even = ((const PASTE(Lanes, PASTE(HALF_, VEC)) *)&a)[which];
    v.odd = ((const PASTE(Lanes, PASTE(HALF_, VEC)) *)&b)[which];
    return v;
}
FUNCTION V largest_of_rows(V *v) {
    for (int w = VEC / 2; w; w /= 2)
        for (int k = 0; k < w; k++) {
            const V lower = both(v[k], v[k + w], 0), upper = both(v[k], v[k + w], 1);
            v[k] = upper > lower ? upper : lower;
        }
    return v[0];
}
#else
FUNCTION R largest_lane(V v) {
#ifdef COLUMNS
    return v;
#else
    const V V_LANES = v;
    HALVES(HALVE_LARGEST)
    return v1;
#endif
}
#endif

#if defined(DOUBLE) || defined(FLOAT)

#ifdef DOUBLE
#define MANTISSA 52
#define LOG2E 1.4426950408889634074
#define BIAS 1023
#define MAGIC 6755399441055744.0
#define LN2_HIGH 0x1.62e42fefap-1
#define LN2_LOW 0x1.cf79abc9e3b3ap-40
#define LOG_LN2_HIGH 0.69314718036912381649
#define LOG_LN2_LOW 1.9082149292705877e-10
#define ROOT_HALF 0x3fe6a09e667f3bcdL  // the bits of sqrt(1/2)
#define SPLITTER 134217729.0
#define HEADROOM 300
#define UNIT 0x1p300
#define LOWEST -915.0
#define NEAR 2048.0
#else
#define MANTISSA 23
#define LOG2E 1.4426950408889634f
#define BIAS 127
#define MAGIC 12582912.0f
#define LN2_HIGH 0x1.62ep-1f
#define LN2_LOW 0x1.0bfbe8p-15f
#define LOG_LN2_HIGH 6.9313812256e-01f
#define LOG_LN2_LOW 9.0580006145e-06f
#define ROOT_HALF 0x3f3504f3
#define SPLITTER 4097.0f
#define HEADROOM 64
#define UNIT 0x1p64f
#define LOWEST -131.0f
#define NEAR 300.0f
#endif

// A sum as high + low.
typedef struct { R high, low; } Sum;
FUNCTION V two_sum(V a, V b, V *error) {
    const V s = a + b, v = s - a;
    *error = (a - (s - v)) + (b - v);
    return s;
}
FUNCTION V two_product(V a, V b, V *error) {
    const V p = a * b;
#ifdef HAS_FMA
    const V e = MAD(a, b, -p);
#else
    const V split = CONSTANT(SPLITTER);
    const V s = split * a, ah = s - (s - a), al = a - ah, u = split * b, bh = u - (u - b), bl = b - bh;
    const V e = ((ah * bh - p) + ah * bl + al * bh) + al * bl;
#endif
    *error = e - e == CONSTANT(0) ? e : CONSTANT(0);  // of a huge number the halves or the product overflow
    return p;
}
FUNCTION Sum add_sums(Sum a, Sum b) {
    const R s = a.high + b.high, v = s - a.high;
    Sum r = {s, ((a.high - (s - v)) + (b.high - v)) + (a.low + b.low)};
    return r;
}
// The sums of the chains, and over lanes where those are elements of one row.
#ifdef COLUMNS
FUNCTION Sum sum_lanes(const V *high, const V *low) {
    Sum s[VEC];
    LANES(k, VEC) {
        s[k].high = high[k];
        s[k].low = low[k];
    }
    for (int w = VEC / 2; w; w /= 2)
        for (int k = 0; k < w; k++) s[k] = add_sums(s[k], s[k + w]);
    return s[0];
}
#elif defined(BATCHED)
FUNCTION Sum sum_of_rows(V *high, V *low) {
    for (int w = VEC / 2; w; w /= 2)
        for (int k = 0; k < w; k++) {
            const Sum lower = {both(high[k], high[k + w], 0), both(low[k], low[k + w], 0)};
            const Sum upper = {both(high[k], high[k + w], 1), both(low[k], low[k + w], 1)}, s = add_sums(lower, upper);
            high[k] = s.high;
            low[k] = s.low;
        }
    const Sum s = {high[0], low[0]};
    return s;
}
#else
#define HALVE_SUM(w, h)                                                                                                \
    const Lanes##h lower##h = HALF(h, v##w, 0), upper##h = HALF(h, v##w, 1);                                           \
    const Lanes##h v##h = lower##h + upper##h, part##h = v##h - lower##h;                                              \
    const Lanes##h low##h =                                                                                            \
        ((lower##h - (v##h - part##h)) + (upper##h - part##h)) + (HALF(h, low##w, 0) + HALF(h, low##w, 1));
FUNCTION Sum sum_lanes(const V *high, const V *low) {
    const V V_LANES = *high, PASTE(low, VEC) = *low;
    HALVES(HALVE_SUM)
    const Sum s = {v1, low1};
    return s;
}
#endif
#define ACCUMULATORS(high, low)                                                                                        \
    V high[CHAINS], low[CHAINS];                                                                                       \
    for (int k = 0; k < CHAINS; k++) high[k] = low[k] = ZERO;
// The sum of a row, of which each part left its own.
#ifdef PART
FUNCTION void leave_sum(__global ACC *state, Sum s) {
    state[0] = s.high;
    state[1] = s.low;
}
FUNCTION Sum joined_sum(const __global ACC *states, long parts) {
    Sum s = {states[0], states[1]};
    for (long p = 1; p < parts; p++) {
        const Sum other = {states[4 * p], states[4 * p + 1]};
        s = add_sums(s, other);
    }
    return s;
}
#endif
// An infinite or NaN sum leaves nothing but NaN in the low part.
FUNCTION R total(Sum s) { return s.high - s.high == 0 ? s.high + s.low : s.high; }
// The four vectors of a tile are added first, then exactly to the sum so far.
FUNCTION void add_tile(V *high, V *low, const V *e) {
    V error;
    *high = two_sum(*high, (e[0] + e[1]) + (e[2] + e[3]), &error);
    *low = *low + error;
}

// ---------------------------------------------------------------- exp

// exp(t) 2^offset for magic = MAGIC + BIAS + offset: the low bits of q = t log2 e + magic are the biased exponent of a power of two,
// which must be a normal number, and r = t - n ln 2 is what is left. NaN stays NaN.
// exp(r) = 1 + r + r^2 g(r).
#ifdef DOUBLE
#define EXP_TAIL(first, next)                                                                                          \
    first(2.5000062078258757146e-8) next(2.7630387964068450876e-7) next(2.7557587085889520721e-6)                      \
    next(0.000024801492734724736451) next(0.00019841269504969927246) next(0.00138888889439518383)                      \
    next(0.0083333333334955798717) next(0.041666666666529068492) next(0.16666666666666410171) next(0.50000000000000107362)
#else
#define EXP_TAIL(first, next)                                                                                          \
    first(0.0013814173871651292f) next(0.008368921466171741f) next(0.04166840761899948f) next(0.1666651964187622f)     \
    next(0.4999999403953552f)
#endif
#define FIRST_OF_ONE(c) V g = CONSTANT(c);
#define NEXT_OF_ONE(c) g = MAD(g, r, CONSTANT(c));
FUNCTION V exp_tail(V r) {
    EXP_TAIL(FIRST_OF_ONE, NEXT_OF_ONE)
    return g;
}
FUNCTION V power_of_two(V q) { return PASTE(as_, V_NAME)(PASTE(as_, PASTE(SIGNED, VEC))(q) << MANTISSA); }
FUNCTION V exp_offset(V t, V magic) {
    const V q = MAD(t, CONSTANT(LOG2E), magic), n = q - magic, power = power_of_two(q);
    const V r = MAD(n, CONSTANT(-LN2_LOW), MAD(n, CONSTANT(-LN2_HIGH), t));
    return MAD(MAD(r * r, exp_tail(r), r), power, power);
}
// The same of four vectors, operation by operation: a processor does not look as far ahead as one of them waits for itself.
#define FIRST_OF_FOUR(c) FOUR(k) g[k] = CONSTANT(c);
#define NEXT_OF_FOUR(c) FOUR(k) g[k] = MAD(g[k], r[k], CONSTANT(c));
FUNCTION void exps_offset(V *r, V magic) {
    V q[4], n[4], g[4];
    FOUR(k) q[k] = MAD(r[k], CONSTANT(LOG2E), magic);
    FOUR(k) n[k] = q[k] - magic;
    FOUR(k) r[k] = MAD(n[k], CONSTANT(-LN2_HIGH), r[k]);
    FOUR(k) r[k] = MAD(n[k], CONSTANT(-LN2_LOW), r[k]);
    EXP_TAIL(FIRST_OF_FOUR, NEXT_OF_FOUR)
    FOUR(k) r[k] = MAD(r[k] * r[k], g[k], r[k]);
    FOUR(k) r[k] = MAD(r[k], power_of_two(q[k]), power_of_two(q[k]));
}
// The same of t + low. What is left comes in two parts, 1 is added exactly to the larger, and what the result lost is about *lost.
FUNCTION V exp_in_two(V t, V low, V magic, V *lost) {
    const V q = MAD(t, CONSTANT(LOG2E), magic), n = q - magic, power = power_of_two(q);
    const V high = MAD(n, CONSTANT(-LN2_HIGH), t), rest = MAD(n, CONSTANT(-LN2_LOW), low), r = high + rest;
    const V h = ONE + high, small = (high - (h - ONE)) + MAD(r * r, exp_tail(r), rest), e = h + small;
    *lost = (small - (e - h)) * power;
    return e * power;
}
FUNCTION V exp_offset_low(V t, V low, V magic) {
    V lost;
    return exp_in_two(t, low, magic, &lost);
}
// exp(t + low) over its whole range, to subnormals and infinity: the power of two is kept in the middle of the exponents and moved
// by one exact step at the end.
FUNCTION V exp_of(V t, V low) {
    const V top = CONSTANT(-LOWEST);
    const I far = t < CONSTANT(LOWEST), up = t > CONSTANT(0);
    t = far ? CONSTANT(LOWEST) : t > top ? top : t;
    low = (far | (low != low)) ? CONSTANT(0) : low;
    const V magic = up ? CONSTANT(MAGIC + BIAS - HEADROOM) : CONSTANT(MAGIC + BIAS + HEADROOM);
    return exp_offset_low(t, low, magic) * (up ? CONSTANT(UNIT) : CONSTANT(1 / UNIT));
}
// exp(t + low) 2^HEADROOM for t <= 0, and for t so small that the exponential is nothing, nearly nothing.
FUNCTION V decay(V t, V low) {
    const I far = t < CONSTANT(LOWEST);
    return exp_offset_low(far ? CONSTANT(LOWEST) : t, far ? CONSTANT(0) : low, CONSTANT(MAGIC + BIAS + HEADROOM));
}
FUNCTION V magnitude(V a) {
    const I all_but_sign = ~PASTE(as_, PASTE(SIGNED, VEC))(CONSTANT(-0.0));
    return PASTE(as_, V_NAME)(PASTE(as_, PASTE(SIGNED, VEC))(a) & all_but_sign);
}
// exp(-|x|) 2^HEADROOM. Only the last product is rounded where sigmoid is subnormal.
FUNCTION V decay_of(V x) { return decay(-magnitude(x), ZERO); }

// ---------------------------------------------------------------- log

// (atanh(s) / s - 1) / s^2 as a polynomial in z = s^2 <= 1/9.
FUNCTION V atanh_tail(V z) {
#ifdef DOUBLE
    V g = CONSTANT(0.080279249766415460349);
    g = MAD(g, z, CONSTANT(0.028988373350345936795));
    g = MAD(g, z, CONSTANT(0.050471100088152583596));
    g = MAD(g, z, CONSTANT(0.052278451336423140534));
    g = MAD(g, z, CONSTANT(0.058852647034892638326));
    g = MAD(g, z, CONSTANT(0.066665033401744442764));
    g = MAD(g, z, CONSTANT(0.076923139155854067904));
    g = MAD(g, z, CONSTANT(0.090909089332440238883));
    g = MAD(g, z, CONSTANT(0.11111111113649264167));
    g = MAD(g, z, CONSTANT(0.14285714285690371437));
    g = MAD(g, z, CONSTANT(0.20000000000000112913));
    return MAD(g, z, CONSTANT(0.33333333333333333147));
#else
    V g = CONSTANT(0.140122962339f);
    g = MAD(g, z, CONSTANT(0.139995540035f));
    g = MAD(g, z, CONSTANT(0.200108508258f));
    return MAD(g, z, CONSTANT(0.333332065349f));
#endif
}
// log(1 + z) for 0 <= z <= 1: what is taken from z, which is exact, is small beside it.
FUNCTION V log1p_unit(V z) {
    const V s = z / (CONSTANT(2) + z), w = s * s, half_square = CONSTANT(0.5) * z * z;
    return z - (half_square - s * (CONSTANT(2) * w * atanh_tail(w) + half_square));
}
// log(c + u + low), a positive number; where it is near 1, c is 1 and u what is left.
FUNCTION V log_of(V c, V u, V low) {
    const V v = c + u, one = CONSTANT(1);
    const I bits = PASTE(as_, PASTE(SIGNED, VEC))(v), e = (bits - (I)(ROOT_HALF)) >> MANTISSA;
    const V n = PASTE(as_, V_NAME)(e + PASTE(as_, PASTE(SIGNED, VEC))(CONSTANT(MAGIC))) - CONSTANT(MAGIC);
    const V f = PASTE(as_, V_NAME)(bits - (e << MANTISSA));
    const V w = n == CONSTANT(0) ? (c - one) + u : f - one;
    const V s = w / (CONSTANT(2) + w), z = s * s, half_square = CONSTANT(0.5) * w * w;
    const V small = s * (half_square + CONSTANT(2) * z * atanh_tail(z)) + (n * CONSTANT(LOG_LN2_LOW) + low / v);
    return n * CONSTANT(LOG_LN2_HIGH) + (w - (half_square - small));
}
FUNCTION R of_row(V v) {
#if defined(COLUMNS) || defined(BATCHED)
    return v;
#else
    return ((ACC *)&v)[0];
#endif
}

#endif
