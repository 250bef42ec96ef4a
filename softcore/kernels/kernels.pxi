# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# The kernels of one ISA: this text is compiled once for each (cpu_base.pyx, cpu_avx2.pyx, cpu_avx512.pyx).
cimport cython
cimport numpy as cnp
from cpython.ref cimport Py_INCREF
from cython.parallel cimport prange
from libc.math cimport INFINITY, NAN, exp, fabs, isfinite, log, log1p
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from softcore.kernels.simd cimport *

cdef extern from "openmp.h" nogil:
    int softcore_max_threads()
    int softcore_openmp()
    int softcore_thread()
    bint softcore_supports(int level)

cdef extern from "numpy/arrayobject.h":
    enum: NPY_HALF
    cnp.ndarray PyArray_Empty(int, cnp.npy_intp*, cnp.PyArray_Descr*, int)

cnp.import_array()

cdef enum:
    SHORT = 64   # the longest row that may be turned into a column

include "task.pxi"
include "max.pxi"
include "softmax.pxi"
include "map.pxi"
include "losses.pxi"
include "gates.pxi"

# ------------------------------------------------------------------------------------------------ the table of ops

cdef enum Op:
    SOFTMAX, LOG_SOFTMAX, SOFTMAX_BACKWARD, LOG_SOFTMAX_BACKWARD, LOGSUMEXP, LOGSUMEXP_BACKWARD
    MAX, ARGMAX, MAX_WITH_ARGMAX, HARDMAX, MAX_BACKWARD, CHOOSE, ELEMENTWISE, EXP
    SWEEP, GRADIENT_SUM, CROSS_ENTROPY, BINARY_CROSS_ENTROPY

cdef dict NAMES = {
    "softmax": SOFTMAX, "log_softmax": LOG_SOFTMAX, "softmax_backward": SOFTMAX_BACKWARD,
    "log_softmax_backward": LOG_SOFTMAX_BACKWARD, "logsumexp": LOGSUMEXP, "logsumexp_backward": LOGSUMEXP_BACKWARD,
    "max": MAX, "argmax": ARGMAX, "max_with_argmax": MAX_WITH_ARGMAX, "hardmax": HARDMAX,
    "max_backward": MAX_BACKWARD, "exp": EXP,
    # element-wise: the op and its case
    "relu": CHOOSE + 100 * RELU, "relu_backward": CHOOSE + 100 * RELU_BACKWARD, "maximum": CHOOSE + 100 * MAXIMUM,
    "step": ELEMENTWISE + 100 * STEP,
    "sigmoid": ELEMENTWISE + 100 * SIGMOID, "sigmoid_backward": ELEMENTWISE + 100 * SIGMOID_BACKWARD,
    "log_sigmoid": ELEMENTWISE + 100 * LOG_SIGMOID, "log_sigmoid_backward": ELEMENTWISE + 100 * LOG_SIGMOID_BACKWARD,
    "softplus": ELEMENTWISE + 100 * SOFTPLUS, "softplus_backward": ELEMENTWISE + 100 * SOFTPLUS_BACKWARD,
    # losses: a value, a gradient or both
    "cross_entropy": CROSS_ENTROPY, "cross_entropy_with_grad": CROSS_ENTROPY, "cross_entropy_backward": CROSS_ENTROPY,
    "binary_cross_entropy": BINARY_CROSS_ENTROPY, "binary_cross_entropy_with_grad": BINARY_CROSS_ENTROPY,
    "binary_cross_entropy_backward": BINARY_CROSS_ENTROPY,
    "maximum_backward": SWEEP + 100 * MAXIMUM_BACKWARD, "gate": SWEEP + 100 * GATE, "gate_backward": SWEEP + 100 * GATE_BACKWARD,
    "glu": SWEEP + 100 * GLU, "glu_backward": SWEEP + 100 * GLU_BACKWARD,
    "maximum_backward_sum": GRADIENT_SUM + 100 * OF_MAXIMUM, "gate_backward_sum": GRADIENT_SUM + 100 * OF_GATE,
}

cdef void max_kernels(const Task* t, int op, Kernel* k, element* _) noexcept nogil:
    k.fold = <Fold> argmax_fold[element]
    k.merge = <Merge> (argmax_merge_last[element] if t.option == 1 else argmax_merge[element])
    if op == MAX:
        k.fold = <Fold> max_fold[element]
        k.merge = <Merge> max_merge[element]
        k.map = <Map> max_map[element]
        k.columns = <Columns> max_slab[element]
        k.widest = WIDE
        k.short = 20 if sizeof(element) < 8 else 12
        k.rows = <Rows> max_rows[element]
        k.longest = frame_size(_)
        k.reduces = True
    elif op == ARGMAX or op == MAX_WITH_ARGMAX:
        k.map = <Map> argmax_map[element]
        k.columns = <Columns> argmax_slab[element]
        k.widest = WIDE
        k.reduces = True
    elif op == HARDMAX:
        k.map = <Map> hardmax_map[element]
        k.columns = <Columns> hardmax_slab[element]
        k.widest = WIDE
    elif op == MAX_BACKWARD:
        k.fold = NULL
        k.map = <Map> max_backward_map[element]
        k.whole = True
        if t.ninputs == 2:
            k.columns = <Columns> max_backward_slab[element]
            k.widest = WIDE
    elif op == CHOOSE:
        k.fold = NULL
        k.map = <Map> choose_map[element]
        k.packs = True
    k.chunk = chunk_size(_)
    k.lanes = lanes(_)
    k.known = True

cdef void softmax_kernels(const Task* t, int op, Kernel* k, storage* _) noexcept nogil:
    k.known = True
    if op == SOFTMAX:
        k.fold = <Fold> softmax_fold[storage]
        k.merge = <Merge> softmax_merge[storage]
        k.map = <Map> softmax_map[storage]
        if t.n > 1:  # the softmax of one element is 1, not a quotient
            k.rows = <Rows> softmax_rows[storage]
            k.columns = <Columns> softmax_columns[storage]
            k.widest = WIDE
            k.short = 16 if storage is double else 47
            k.longest = longest_walk(t, _)
            k.slabs = <SlabBySlab> softmax_slabs[storage] if t.n <= frame_size(_) else NULL
    elif op == LOG_SOFTMAX:
        k.fold = <Fold> softmax_fold[storage]
        k.merge = <Merge> softmax_merge[storage]
        k.finish = <Finish> log_softmax_finish[storage]
        k.map = <Map> log_softmax_map[storage]
        k.rows = <Rows> log_softmax_rows[storage]
        k.longest = longest_walk(t, _)
        k.slabs = <SlabBySlab> log_softmax_slabs[storage] if t.n <= frame_size(_) else NULL
        k.columns = <Columns> log_softmax_columns[storage]
        k.widest = WIDE
        k.short = 16 if storage is double else 47
    elif op == SOFTMAX_BACKWARD or op == LOG_SOFTMAX_BACKWARD:
        k.fold = <Fold> gradient_fold[storage]
        k.merge = <Merge> sum_merge[storage]
        k.map = <Map> gradient_map[storage]
        k.columns = <Columns> gradient_columns[storage]
        k.widest = SUMS
        k.short = 12
        if row_contiguous(t, k):
            k.rows = <Rows> gradient_rows[storage]
            k.longest = chunk_size(_)
    elif op == LOGSUMEXP and t.ninputs == 2:
        k.fold = <Fold> weighted_fold[storage]
        k.merge = <Merge> weighted_merge[storage]
        k.map = <Map> weighted_map[storage]
        k.reduces = True
    elif op == LOGSUMEXP:
        k.fold = <Fold> softmax_fold[storage]
        k.merge = <Merge> softmax_merge[storage]
        k.map = <Map> logsumexp_map[storage]
        k.rows = <Rows> logsumexp_rows[storage]
        k.longest = frame_size(_)
        k.columns = <Columns> logsumexp_columns[storage] if t.nargs == 2 else NULL
        k.slabs = <SlabBySlab> logsumexp_slabs[storage] if t.n <= frame_size(_) else NULL
        k.widest = WIDE
        k.short = 40 if storage is double else SHORT
        k.reduces = True
    elif op == LOGSUMEXP_BACKWARD:
        k.map = <Map> logsumexp_backward_map[storage]
        k.packs = True
    elif op == SWEEP:
        k.map = <Map> sweep_map[storage]
        k.packs = True
    elif op == GRADIENT_SUM:
        k.fold = <Fold> gradient_sum_fold[storage]
        k.merge = <Merge> gradient_sum_merge[storage]
        k.map = <Map> gradient_sum_map[storage]
        k.columns = <Columns> gradient_sum_columns[storage]
        k.reduces = True
        k.spreads = True
    elif op == ELEMENTWISE:
        k.map = <Map> elementwise_map[storage]
        k.packs = True
    elif op == EXP:
        k.map = <Map> exp_map[storage]
    elif op == CROSS_ENTROPY or op == BINARY_CROSS_ENTROPY:
        loss_kernels(t, op, k, _)
    else:
        max_kernels(t, op, k, _)
    k.chunk = chunk_size(_)
    k.lanes = lanes(_)

cdef void kernel_of(const Task* t, int op, int code, Kernel* k) noexcept nogil:
    k.fold = NULL
    k.merge = NULL
    k.finish = NULL
    k.map = NULL
    k.rows = NULL
    k.columns = NULL
    k.slabs = NULL
    k.reduces = k.whole = k.known = k.spreads = k.packs = False
    k.longest = 0
    k.widest = GROUPS
    k.short = SHORT
    if code == FLOAT:
        softmax_kernels(t, op, k, <float*> NULL)
    elif code == DOUBLE:
        softmax_kernels(t, op, k, <double*> NULL)
    elif code == HALF:
        softmax_kernels(t, op, k, <half*> NULL)
    elif code == BFLOAT16:
        softmax_kernels(t, op, k, <bfloat16*> NULL)
    elif op < MAX or op > CHOOSE:
        return
    elif code == INT8:
        max_kernels(t, op, k, <signed char*> NULL)
    elif code == UINT8 or code == BOOL:
        max_kernels(t, op, k, <unsigned char*> NULL)
    elif code == INT16:
        max_kernels(t, op, k, <short*> NULL)
    elif code == UINT16:
        max_kernels(t, op, k, <unsigned short*> NULL)
    elif code == INT32:
        max_kernels(t, op, k, <int*> NULL)
    elif code == UINT32:
        max_kernels(t, op, k, <unsigned int*> NULL)
    elif code == INT64:
        max_kernels(t, op, k, <long long*> NULL)
    elif code == UINT64:
        max_kernels(t, op, k, <unsigned long long*> NULL)

include "executors.pxi"

# ------------------------------------------------------------------------------------------------ the geometry

cdef int collapse(Task* t, int n, Py_ssize_t* shape, bint outer) noexcept nogil:
    # Drop dimensions of one element and join those that lie behind each other in every operand.
    cdef int d = 0, e, i
    cdef bint join
    cdef Py_ssize_t* s
    while d < n:
        join = shape[d] == 1
        if not join and d + 1 < n:
            join = True
            for i in range(t.nargs + t.masked):
                s = strides_of(t, i, outer)
                if s[d] != s[d + 1] * shape[d + 1]:
                    join = False
            if join:
                shape[d + 1] *= shape[d]
        if join:
            for e in range(d, n - 1):
                shape[e] = shape[e + 1]
                for i in range(t.nargs + t.masked):
                    s = strides_of(t, i, outer)
                    s[e] = s[e + 1]
            n -= 1
        else:
            d += 1
    return n

cdef inline Py_ssize_t* strides_of(Task* t, int i, bint outer) noexcept nogil:
    cdef Operand* a = &t.mask if i == t.nargs else &t.arg[i]
    return &a.outer[0] if outer else &a.length[0]

cdef void sort_outer(Task* t) noexcept nogil:
    # Rows may come in any order: neighbours in memory next to each other, so that columns are seen as such.
    cdef int d, e, i
    cdef Py_ssize_t* s
    cdef Py_ssize_t swap
    for d in range(t.nouter - 1):
        for e in range(t.nouter - 1 - d):
            if order_of(t, e) < order_of(t, e + 1):
                swap = t.outer[e]; t.outer[e] = t.outer[e + 1]; t.outer[e + 1] = swap
                for i in range(t.nargs + t.masked):
                    s = strides_of(t, i, True)
                    swap = s[e]; s[e] = s[e + 1]; s[e + 1] = swap

cdef inline Py_ssize_t order_of(Task* t, int d) noexcept nogil:
    # Strides tell neighbours, but not those of what was broadcast. The last output never is.
    cdef int i = 0, e
    for e in range(t.nouter):
        if t.outer[e] > 1 and t.arg[0].outer[e] == 0:
            i = t.nargs - 1
    cdef Py_ssize_t s = t.arg[i].outer[d]
    return -s if s < 0 else s

cdef void settle(Task* t, bint elementwise, int code) noexcept nogil:
    # Collapse, count, and see which operands need no copy.
    cdef int i
    if elementwise:  # the length dims are like any other; the last of all is the row
        for i in range(t.nlength):
            t.outer[t.nouter + i] = t.length[i]
        for i in range(t.nargs + t.masked):
            append_length(strides_of(t, i, True), strides_of(t, i, False), t.nouter, t.nlength)
        t.nouter += t.nlength
        t.nlength = 0
    sort_outer(t)
    t.nouter = collapse(t, t.nouter, t.outer, True)
    t.nlength = collapse(t, t.nlength, t.length, False)
    if elementwise and t.nouter:
        t.nouter -= 1
        t.nlength = 1
        t.length[0] = t.outer[t.nouter]
        for i in range(t.nargs + t.masked):
            strides_of(t, i, False)[0] = strides_of(t, i, True)[t.nouter]
    t.rows = 1
    t.n = 1
    for i in range(t.nouter):
        t.rows *= t.outer[i]
    for i in range(t.nlength):
        t.n *= t.length[i]
    for i in range(t.nargs):
        t.arg[i].direct = t.arg[i].code == code and (t.nlength == 0 or (t.nlength == 1 and t.arg[i].length[0] == t.arg[i].itemsize))

# Of rows of one element: the last of the outer dimensions becomes the row.
cdef void take_rows_as_elements(Task* t, int code) noexcept nogil:
    cdef int i
    t.nouter -= 1
    t.nlength = 1
    t.n = t.length[0] = t.outer[t.nouter]
    t.rows //= t.n
    for i in range(t.nargs):
        t.arg[i].length[0] = t.arg[i].outer[t.nouter]
        t.arg[i].direct = t.arg[i].code == code and t.arg[i].length[0] == t.arg[i].itemsize

cdef void append_length(Py_ssize_t* outer, const Py_ssize_t* length, int nouter, int nlength) noexcept nogil:
    cdef int i
    for i in range(nlength):
        outer[nouter + i] = length[i]

# Layouts an executor can count on.
cdef bint row_contiguous(const Task* t, const Kernel* k) noexcept nogil:
    cdef int i
    for i in range(t.nargs):
        if not t.arg[i].direct and not (k.reduces and i >= t.ninputs):
            return False
    return not t.masked

# The same but for inputs that have one element for each row.
cdef bint turns(const Task* t) noexcept nogil:
    cdef int i
    for i in range(t.nargs):
        if not t.arg[i].direct and not one_a_row(t, i):
            return False
    return not t.masked

cdef bint written_in_place(const Task* t) noexcept nogil:
    cdef int i
    for i in range(t.ninputs, t.nargs):
        if not t.arg[i].direct and not (t.loss != NULL and i == t.loss.value):
            return False
    return not t.masked

cdef bint column_contiguous(const Task* t, const Kernel* k, int code) noexcept nogil:
    cdef int i
    if t.masked or t.factor != 1 or t.nouter == 0 or t.nlength != 1 or k.columns == NULL:
        return False
    for i in range(t.nargs):
        if t.arg[i].outer[t.nouter - 1] != t.arg[i].itemsize and not (k.spreads and i < t.ninputs and t.arg[i].outer[t.nouter - 1] == 0):
            return False
        if t.arg[i].code != code and not (k.reduces and i >= t.ninputs):
            return False
    return True

# ------------------------------------------------------------------------------------------------ from Python

cdef object choose = None         # planner.choose
cdef Py_ssize_t small_work = 0    # planner.SMALL: below it nothing is worth a thought
cdef int bfloat16_type = -1

def configure(planner_choose, Py_ssize_t small):
    """Tell this module who plans: ``planner.choose``, and the work below which rows are simply run."""
    global choose, small_work
    choose = planner_choose
    small_work = small

cdef int CODES[32]
cdef int _i
for _i in range(32):
    CODES[_i] = -1
CODES[NPY_HALF] = HALF
CODES[<int> cnp.NPY_FLOAT] = FLOAT
CODES[<int> cnp.NPY_DOUBLE] = DOUBLE
CODES[<int> cnp.NPY_BOOL] = BOOL
CODES[<int> cnp.NPY_BYTE] = INT8
CODES[<int> cnp.NPY_UBYTE] = UINT8
CODES[<int> cnp.NPY_SHORT] = INT16
CODES[<int> cnp.NPY_USHORT] = UINT16
CODES[<int> cnp.NPY_INT] = INT32
CODES[<int> cnp.NPY_UINT] = UINT32
CODES[<int> cnp.NPY_LONG] = INT64 if sizeof(long) == 8 else INT32
CODES[<int> cnp.NPY_ULONG] = UINT64 if sizeof(long) == 8 else UINT32
CODES[<int> cnp.NPY_LONGLONG] = INT64
CODES[<int> cnp.NPY_ULONGLONG] = UINT64

cdef int code_of(object dtype) except -1:
    global bfloat16_type
    cdef int num = (<cnp.dtype> dtype).type_num
    cdef int code = CODES[num] if num < 32 else -1
    if num >= 256 and (num == bfloat16_type or dtype.name == "bfloat16"):
        bfloat16_type = num
        code = BFLOAT16
    if code < 0:
        raise TypeError(f"no kernel for dtype {dtype}")
    return code if dtype.isnative else code | SWAPPED

cdef void set_operand(Task* t, Operand* a, cnp.ndarray x, int code, int nouter) noexcept:
    cdef int d, nd = cnp.PyArray_NDIM(x)
    a.data = <char*> cnp.PyArray_DATA(x)
    a.itemsize = cnp.PyArray_ITEMSIZE(x)
    a.code = code
    for d in range(nouter):
        a.outer[d] = cnp.PyArray_STRIDES(x)[d]
    for d in range(t.nlength):
        a.length[d] = cnp.PyArray_STRIDES(x)[nouter + d] if nd > nouter else 0

cdef tuple SHORT_ROWS = (4, 1, False, False)  # what choose says of a few short rows

cdef object execute(Task* t, int op, int code, str name, bint dry):
    # Choose a plan and follow it.
    cdef Kernel k
    cdef Room* rooms = NULL
    cdef int threads = 1, executor
    cdef bint rows, columns, short, small = t.rows * t.n <= small_work
    t.log = op == LOG_SOFTMAX_BACKWARD
    if t.n == 1 and t.rows > 1 and t.factor == 1 and not t.masked and (op == SOFTMAX or op == LOG_SOFTMAX or (op == LOGSUMEXP and t.nargs == 2)):
        t.option = SOFTMAX_OF_ONE if op == SOFTMAX else LOG_SOFTMAX_OF_ONE if op == LOG_SOFTMAX else LOGSUMEXP_OF_ONE
        op = ELEMENTWISE
        take_rows_as_elements(t, code)
    kernel_of(t, op, code, &k)
    if not k.known:
        raise TypeError(f"no kernel of {name} for this storage")
    if small and t.arg[0].direct and (t.rows == 1 or t.n >= k.short or k.columns == NULL):
        if dry:
            return 5, 1, False, False
        open_totals(t, 1)
        whole_rows(t, &k, 0, t.rows)
        close_totals(t, 1)
        return None
    rows = row_contiguous(t, &k)
    short = k.columns != NULL and code <= DOUBLE and t.nouter <= 1 and t.n <= k.short and t.nargs <= 4 and (rows or (k.slabs == NULL and turns(t)))
    if small and short:
        plan = SHORT_ROWS
    else:
        columns = column_contiguous(t, &k, code)
        plan = choose(name, t.rows, t.n, t.outer[t.nouter - 1] if t.nouter else 1, t.arg[0].itemsize, t.nargs, rows, columns, short,
                      k.fold == NULL and not k.whole, not k.reduces or (t.loss != NULL and t.loss.gradient >= 0), k.whole)
    executor = plan[0]
    threads = plan[1]
    # What goes to its place by way of a tile, or in part, is written by a copy.
    t.streaming = plan[2] and (executor == 3 or written_in_place(t))
    t.ahead = plan[3]
    if dry:
        return executor, threads, bool(t.streaming), plan[3]
    open_totals(t, threads)
    if executor == 1:
        rooms = <Room*> malloc(((t.n + k.chunk - 1) // k.chunk) * sizeof(Room))
        if rooms == NULL:
            raise MemoryError()
    with nogil:
        if executor == 0:
            run_rows(t, &k, threads)
        elif executor == 1:
            run_split(t, &k, threads, rooms)
        elif executor == 2:
            run_map(t, &k, threads)
        elif executor == 3:
            run_columns(t, &k, threads)
        elif code == FLOAT:
            run_short(t, &k, threads, <float*> NULL)
        elif code == DOUBLE:
            run_short(t, &k, threads, <double*> NULL)
        else:
            kernel_of(t, op, FLOAT, &k)  # half types are floats in the slab,
            if op == SOFTMAX:  # where exponentials stay those of halves
                k.slabs = <SlabBySlab> softmax_slabs[widened]
            elif op == LOG_SOFTMAX:
                k.slabs = <SlabBySlab> log_softmax_slabs[widened]
            elif op == LOGSUMEXP:
                k.slabs = <SlabBySlab> logsumexp_slabs[widened]
            if code == HALF:
                run_short(t, &k, threads, <half*> NULL)
            else:
                run_short(t, &k, threads, <bfloat16*> NULL)
        if t.streaming:
            fence()
    free(rooms)
    close_totals(t, threads)
    return None

def run(str op, dtype, tuple inputs, tuple outputs, int nouter, mask=None, double scale=1.0, int option=0, bint dry=False):
    """Run one op over arranged views: see ``softcore/check`` for what it guarantees and ``task.pxi`` for what follows."""
    cdef Task t
    cdef int code = code_of(dtype), which = NAMES[op], d, nd
    cdef cnp.ndarray x
    begin_task(&t)
    t.scale = scale
    t.option = which // 100 if which >= 100 else option
    t.variant = option
    which = which % 100
    t.masked = mask is not None
    full = next(a for a in inputs + outputs if a is not None and a.ndim >= nouter and (a is inputs[0] or a.ndim > nouter)) if op not in ("max_backward", "logsumexp_backward") else inputs[1]
    x = full
    nd = cnp.PyArray_NDIM(x)
    t.nouter = nouter
    t.nlength = nd - nouter
    for d in range(nouter):
        t.outer[d] = cnp.PyArray_DIMS(x)[d]
    for d in range(t.nlength):
        t.length[d] = cnp.PyArray_DIMS(x)[nouter + d]
    for a in inputs:
        if a is not None:
            set_operand(&t, &t.arg[t.nargs], a, code_of(a.dtype), nouter)
            t.nargs += 1
    t.ninputs = t.nargs
    for a in outputs:
        set_operand(&t, &t.arg[t.nargs], a, code_of(a.dtype), nouter)
        t.nargs += 1
    if t.masked:
        set_operand(&t, &t.mask, mask, BOOL, nouter)
    if code == BOOL:
        code = UINT8
        for d in range(t.nargs):
            if t.arg[d].code == BOOL:
                t.arg[d].code = UINT8
    settle(&t, which == CHOOSE or which == ELEMENTWISE or which == EXP or which == SWEEP or which == LOGSUMEXP_BACKWARD, code)
    if (which == SOFTMAX or which == LOG_SOFTMAX) and not (scale > 0 and isfinite(scale)):
        # The kernels want a positive scale; a sign, a zero and the like are exact as factors.
        t.factor = -1 if scale < 0 and isfinite(scale) else scale
        t.scale = -scale if t.factor == -1 else 1
        t.arg[0].direct = False
    return execute(&t, which, code, op, dry)

cdef inline bint plain_array(object a) noexcept:
    return type(a) is cnp.ndarray and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray> a) and cnp.PyArray_SIZE(<cnp.ndarray> a) > 0

cdef bint apart(cnp.ndarray a, cnp.ndarray b) noexcept:
    # The same array or no byte in common.
    cdef char* p = <char*> cnp.PyArray_DATA(a)
    cdef char* q = <char*> cnp.PyArray_DATA(b)
    return p == q or p + cnp.PyArray_NBYTES(a) <= q or q + cnp.PyArray_NBYTES(b) <= p

cdef void bounds(cnp.ndarray a, char** low, char** high) noexcept:
    cdef int d
    cdef Py_ssize_t far
    low[0] = cnp.PyArray_BYTES(a)
    high[0] = low[0] + cnp.PyArray_ITEMSIZE(a)
    for d in range(cnp.PyArray_NDIM(a)):
        far = (cnp.PyArray_DIMS(a)[d] - 1) * cnp.PyArray_STRIDES(a)[d]
        if far < 0:
            low[0] += far
        else:
            high[0] += far

cdef bint same_places(cnp.ndarray a, cnp.ndarray b) noexcept:
    # The same elements in the same order: a kernel reads each of them before it writes it.
    cdef int nd = cnp.PyArray_NDIM(a)
    return (cnp.PyArray_DATA(a) == cnp.PyArray_DATA(b) and a.descr is b.descr and cnp.PyArray_NDIM(b) == nd
            and cnp.PyArray_CompareLists(cnp.PyArray_DIMS(a), cnp.PyArray_DIMS(b), nd)
            and cnp.PyArray_CompareLists(cnp.PyArray_STRIDES(a), cnp.PyArray_STRIDES(b), nd))

def in_place(tuple outputs, tuple read, dtypes, bint same=True):
    """Whether results can surely be written to `outputs` at once: each None, or of its dtype, aligned, and beyond the bounds of what is
    read, or with `same` just where that is."""
    cdef cnp.ndarray y
    cdef char* low
    cdef char* high
    cdef char* start
    cdef char* end
    cdef int i
    for i in range(len(outputs)):
        if outputs[i] is None:
            continue
        y = outputs[i]
        if (y.descr is not dtypes[i] and y.descr != dtypes[i]) or not cnp.PyArray_ISALIGNED(y):
            return False
        bounds(y, &low, &high)
        for a in read:
            if a is not None:
                bounds(a, &start, &end)
                if low < end and start < high and not (same and same_places(a, y)):
                    return False
    return True

cdef inline int results_of(const Task* t, int which) noexcept:
    if which == MAX_WITH_ARGMAX or (which == SWEEP and (t.option == MAXIMUM_BACKWARD or t.option == GLU_BACKWARD)):
        return 2
    return 3 if which == SWEEP and t.option == GATE_BACKWARD else 1

cdef object spread(Task* t, int which, int code, str op, tuple inputs, out):
    # The same for arrays of several shapes, of an op that has one result of the shape they broadcast to; the last is plain.
    cdef int nd = 0, i, d, num = cnp.PyArray_TYPE(<cnp.ndarray> inputs[len(inputs) - 1])
    cdef cnp.npy_intp dims[DIMS]
    cdef cnp.npy_intp m
    cdef cnp.ndarray x, y
    cdef Operand* o
    if out is not None or not (which == CHOOSE and t.option == MAXIMUM or which == SWEEP and t.option == GATE):
        return None
    for a in inputs:
        if not plain_array(a) or cnp.PyArray_TYPE(<cnp.ndarray> a) != num:
            return None
        nd = max(nd, cnp.PyArray_NDIM(<cnp.ndarray> a))
    if nd == 0:
        return None
    for d in range(nd):
        dims[d] = 1
    for a in inputs:
        x = a
        i = nd - cnp.PyArray_NDIM(x)
        for d in range(i, nd):
            m = cnp.PyArray_DIMS(x)[d - i]
            if dims[d] == 1:
                dims[d] = m
            elif m != 1 and m != dims[d]:
                return None
    y = empty_like(x, nd, dims)
    t.nouter = 0
    t.nlength = nd
    for d in range(nd):
        t.length[d] = dims[d]
    for a in (*inputs, y):
        x = a
        o = &t.arg[t.nargs]
        o.data = cnp.PyArray_BYTES(x)
        o.code = code
        o.itemsize = cnp.PyArray_ITEMSIZE(x)
        i = nd - cnp.PyArray_NDIM(x)
        for d in range(nd):
            o.length[d] = cnp.PyArray_STRIDES(x)[d - i] if d >= i and cnp.PyArray_DIMS(x)[d - i] > 1 else 0
        t.nargs += 1
    t.ninputs = t.nargs - 1
    settle(t, True, code)
    execute(t, which, code, op, False)
    return y

cdef object elsewhere = None

def configure_elsewhere(ask):
    """Tell this module what `plain` asks, with its own arguments, where the last operand is no ndarray."""
    global elsewhere
    elsewhere = ask

def plain(str op, tuple inputs, axis, scale, out, int option=0):
    """The short way for plain arrays: contiguous, native, of one dtype and but for what broadcasts of one shape, a single axis, nothing
    masked; `out` is None, or one array, or a tuple of as many as there are results.  glu and its backward take halves along the axis of
    what they are given in one piece, and so is the gradient.

    Returns the result, or a tuple of them, or None where the call is not plain and goes through ``check`` instead.
    """
    cdef Task t
    cdef int which, code, nd, ax, d, num, i, j, results, rank = 0
    cdef Py_ssize_t batch = 1, inner = 1, n, item
    cdef cnp.npy_intp half[DIMS]
    cdef cnp.npy_intp dims[DIMS]
    cdef cnp.ndarray x, y
    cdef bint reduces, elementwise, halves, index
    cdef list made = None
    last = inputs[len(inputs) - 1]
    if type(axis) is not int or not -DIMS <= axis < DIMS or type(scale) is not float or not 1e-30 <= <double> scale <= 1e30:  # see check.scaled
        return None
    if type(last) is not cnp.ndarray and elsewhere is not None:
        return elsewhere(op, inputs, axis, scale, out, option)
    if not plain_array(last):
        return None
    x = last
    num = cnp.PyArray_TYPE(x)
    if num == cnp.NPY_FLOAT:
        code = FLOAT
    elif num == cnp.NPY_DOUBLE:
        code = DOUBLE
    elif num == NPY_HALF:
        code = HALF
    elif num == bfloat16_type:
        code = BFLOAT16
    else:
        return None
    which = NAMES[op]
    begin_task(&t)
    t.option = which // 100
    which = which % 100
    t.scale = scale
    t.variant = option
    elementwise = which == CHOOSE or which == ELEMENTWISE or which == SWEEP
    reduces = which == MAX or which == ARGMAX or which == MAX_WITH_ARGMAX or which == LOGSUMEXP
    halves = which == SWEEP and (t.option == GLU and len(inputs) == 1 or t.option == GLU_BACKWARD and len(inputs) == 2)
    results = 1 if halves else results_of(&t, which)
    nd = cnp.PyArray_NDIM(x)
    ax = axis + nd if axis < 0 else axis
    if nd == 0:
        return spread(&t, which, code, op, inputs, out)
    if ax < 0 or ax >= nd:
        return None
    n = cnp.PyArray_DIMS(x)[ax]
    if halves and n % 2:
        return None
    for d in range(nd):
        half[d] = cnp.PyArray_DIMS(x)[d]
        if d < ax:
            batch *= half[d]
        elif d > ax:
            inner *= half[d]
        if d != ax or not reduces:
            dims[rank] = half[d]
            rank += 1
    if halves:
        half[ax] = n // 2
        if t.option == GLU:
            dims[ax] = n // 2
    for i in range(len(inputs) - 1):
        y = inputs[i] if plain_array(inputs[i]) else None
        if y is None or cnp.PyArray_TYPE(y) != num:
            return None
        if cnp.PyArray_NDIM(y) != nd or not cnp.PyArray_CompareLists(half, cnp.PyArray_DIMS(y), nd):
            return spread(&t, which, code, op, inputs, out)
    item = cnp.PyArray_ITEMSIZE(x)
    if halves:
        n = n // 2 * inner
        inner = 1
    elif elementwise:  # one long row
        n *= batch * inner
        batch = inner = 1
    for i in range(len(inputs)):
        y = inputs[i]
        if halves and i == len(inputs) - 1:
            plain_operand(&t, cnp.PyArray_BYTES(y), code, batch, n, inner, item, 2 * n * item, False)
            plain_operand(&t, cnp.PyArray_BYTES(y) + n * item, code, batch, n, inner, item, 2 * n * item, False)
        else:
            plain_operand(&t, cnp.PyArray_BYTES(y), code, batch, n, inner, item, n * inner * item, False)
    t.ninputs = t.nargs
    given = None if out is None else out if results > 1 else (out,)
    if given is not None and (type(given) is not tuple or len(given) != results):
        return None
    for i in range(results if given is not None else 0):
        index = which == ARGMAX or i > 0 and which == MAX_WITH_ARGMAX
        if type(given[i]) is not cnp.ndarray or not cnp.PyArray_ISCARRAY(<cnp.ndarray> given[i]) or cnp.PyArray_TYPE(<cnp.ndarray> given[i]) != (cnp.NPY_INTP if index else num):
            return None
        y = given[i]
        if cnp.PyArray_NDIM(y) != rank or not cnp.PyArray_CompareLists(dims, cnp.PyArray_DIMS(y), rank):
            return None
        for a in inputs:
            if not apart(a, y) or ((reduces or halves) and cnp.PyArray_DATA(y) == cnp.PyArray_DATA(<cnp.ndarray> a)):
                return None
        for j in range(i):
            if cnp.PyArray_DATA(y) == cnp.PyArray_DATA(<cnp.ndarray> given[j]) or not apart(given[j], y):
                return None
    if given is None and results > 1:
        made = []
    for i in range(results):
        index = which == ARGMAX or i > 0 and which == MAX_WITH_ARGMAX
        y = given[i] if given is not None else cnp.PyArray_EMPTY(rank, dims, cnp.NPY_INTP, 0) if index else empty_like(x, rank, dims)
        if made is not None:
            made.append(y)
        if halves and t.option == GLU_BACKWARD:
            plain_operand(&t, cnp.PyArray_BYTES(y), code, batch, n, inner, item, 2 * n * item, False)
            plain_operand(&t, cnp.PyArray_BYTES(y) + n * item, code, batch, n, inner, item, 2 * n * item, False)
        else:
            item = cnp.PyArray_ITEMSIZE(y)
            plain_operand(&t, cnp.PyArray_BYTES(y), INT64 if index else code, batch, n, inner, item, (inner if reduces else n * inner) * item, reduces)
    t.nlength = 1
    t.length[0] = n
    t.nouter = 0
    if batch > 1:
        t.outer[0] = batch
        t.nouter = 1
    if inner > 1:
        t.outer[t.nouter] = inner
        t.nouter += 1
    t.n = n
    t.rows = batch * inner
    execute(&t, which, code, op, False)
    if out is not None:
        return out
    if reduces and nd == 1:  # scalars, as NumPy gives
        return y[()] if made is None else tuple([y[()] for y in made])
    return y if made is None else tuple(made)

cdef cnp.ndarray empty_like(cnp.ndarray x, int rank, cnp.npy_intp* dims):
    cdef cnp.PyArray_Descr* dtype = <cnp.PyArray_Descr*> cnp.PyArray_DESCR(x)
    Py_INCREF(<object> dtype)
    return PyArray_Empty(rank, dims, dtype, 0)

cdef void plain_operand(Task* t, char* data, int code, Py_ssize_t batch, Py_ssize_t n, Py_ssize_t inner, Py_ssize_t item, Py_ssize_t step, bint value) noexcept:
    # `step` bytes from one of `batch` to the next, of elements or with `value` of one for each row.
    cdef Operand* o = &t.arg[t.nargs]
    cdef int d = 0
    t.nargs += 1
    o.data = data
    o.code = code
    o.itemsize = item
    o.length[0] = 0 if value else inner * item
    o.direct = inner == 1 and not value
    if batch > 1:
        o.outer[0] = step
        d = 1
    if inner > 1:
        o.outer[d] = item

include "pool.pxi"
include "mixtures.pxi"
include "attention.pxi"

# ------------------------------------------------------------------------------------------------ what the machine says

def max_threads():
    """The OpenMP runtime's own limit now: OMP_NUM_THREADS, affinity and threadpoolctl are in it."""
    return softcore_max_threads()

def openmp_runtime():
    """Which OpenMP this module was built with."""
    return f"OpenMP {softcore_openmp()}" if softcore_openmp() else "none (serial build)"

def supported():
    """The ISAs that this processor can run."""
    return tuple(isa for isa, level in (("base", 2), ("avx2", 3), ("avx512", 4)) if softcore_supports(level))
