# Attention: which strips and chunks there are, and which thread takes which.  What happens to them is in attention.h.

ctypedef fused wide_head:  # what attention is computed in
    float
    double

cdef struct Unit:
    const Sequence* s
    Py_ssize_t head, first, rows  # of a strip
    Py_ssize_t start              # of a chunk
    Py_ssize_t place              # of its part, or of the pair's sums of dq
    Py_ssize_t counter            # of the pair's first strip

cdef struct Call:
    Attention t
    Sequence* s
    Unit* unit
    Py_ssize_t sequences, heads, units
    char* room               # scratch of all threads
    Py_ssize_t room_size     # of one
    char* sums               # parts, or sums of dq
    int* done

cdef void free_call(Call* c) noexcept nogil:
    free(c.s)
    free(c.unit)
    free(c.room)
    free(c.sums)
    free(c.done)

cdef int set_layout(Call* c, int which, object a, object first_q, object first_k) except -1:
    # Operands come as (batch..., head, row, column), an lse without the column; packed ones have no batch, but rows where they start.
    cdef Layout* y = &c.t.layout[which]
    cdef cnp.ndarray x
    cdef Py_ssize_t i, n, d, nbatch, at
    cdef bint of_keys = which == OF_K or which == OF_V or which == OF_DK or which == OF_DV
    y.given = a is not None
    if a is None:
        return 0
    x = a
    nbatch = cnp.PyArray_NDIM(x) - (2 if which == OF_LSE else 3)
    y.code = code_of(x.dtype)
    y.head = cnp.PyArray_STRIDES(x)[nbatch]
    y.row = cnp.PyArray_STRIDES(x)[nbatch + 1]
    y.column = 0 if which == OF_LSE else cnp.PyArray_STRIDES(x)[nbatch + 2]
    for i in range(c.sequences):
        at = 0
        n = i
        for d in range(nbatch - 1, -1, -1):
            at += n % cnp.PyArray_DIMS(x)[d] * cnp.PyArray_STRIDES(x)[d]
            n = n // cnp.PyArray_DIMS(x)[d]
        if first_q is not None:
            at = <Py_ssize_t> (first_k[i] if of_keys else first_q[i]) * y.row
        c.s[i].at[which] = <char*> cnp.PyArray_DATA(x) + at
    return 0

cdef int open_call(Call* c, tuple arrays, dict how) except -1:
    # arrays: by `Operands`; how: see ops/attention.py.
    cdef Py_ssize_t i
    cdef object q = arrays[OF_Q]
    memset(c, 0, sizeof(Call))
    c.sequences = how["sequences"]
    c.heads = arrays[OF_K].shape[arrays[OF_K].ndim - 3]
    c.t.group = q.shape[q.ndim - 3] // max(c.heads, 1)
    c.t.d = q.shape[q.ndim - 1]
    c.t.dv = arrays[OF_V].shape[arrays[OF_V].ndim - 1]
    c.t.scale = how["scale"]
    c.t.softcap = how["softcap"]
    c.t.causal = how["causal"]
    c.t.left, c.t.right = how["window"]
    c.t.slopes = <const double*> cnp.PyArray_DATA(<cnp.ndarray> how["slopes"]) if how["slopes"] is not None else NULL
    c.t.sinks = <const double*> cnp.PyArray_DATA(<cnp.ndarray> how["sinks"]) if how["sinks"] is not None else NULL
    c.s = <Sequence*> malloc(max(c.sequences, 1) * sizeof(Sequence))
    if c.s == NULL:
        raise MemoryError()
    queries, keys, offset, first_q, first_k = how["queries"], how["keys"], how["offset"], how["first_q"], how["first_k"]
    for i in range(c.sequences):
        c.s[i].queries = queries if type(queries) is int else queries[i]
        c.s[i].keys = keys if type(keys) is int else keys[i]
        c.s[i].offset = c.s[i].keys - c.s[i].queries if offset is None else offset
    for i in range(len(arrays)):
        set_layout(c, i, arrays[i], first_q, first_k)
    return 0

cdef int add_units(Call* c, Py_ssize_t most, bint strips, bint chunks, Py_ssize_t element) except -1:
    # Units in order: the chunks of a pair (or of a strip), or the strips.  `place` counts elements: of parts, or rows of dq.
    cdef Py_ssize_t i, h, first, start, rows, n = 0, place = 0, counter = 0, pass_
    cdef Unit u
    for pass_ in range(2):
        if pass_:
            c.unit = <Unit*> malloc(max(n, 1) * sizeof(Unit))
            if c.unit == NULL:
                raise MemoryError()
        n = place = counter = 0
        for i in range(c.sequences):
            rows = c.t.group * c.s[i].queries
            for h in range(c.heads):
                first = 0
                while first < rows:
                    start = 0
                    while True:
                        if pass_:
                            u.s = &c.s[i]
                            u.head = h
                            u.first = first
                            u.rows = min(most, rows - first) if strips else rows
                            u.start = start
                            u.place = place
                            u.counter = counter
                            c.unit[n] = u
                        n += 1
                        if strips and chunks:
                            place += min(most, rows - first) * element + 3 * min(most, rows - first)
                        start += CHUNK_KEYS
                        if not chunks or start >= c.s[i].keys:
                            break
                    first += most if strips else rows
                if not strips:
                    place += rows * element
                    counter += (rows + most - 1) // most
    c.units = n
    c.room_size = place  # for a moment: what is to be allocated
    return 0

cdef int open_room(Call* c, int threads, bint gradients, Py_ssize_t more, wide_head* _) except -1:
    cdef Strip[wide_head]* b = NULL
    c.room_size = (scratch_size(&c.t, gradients, NULL, &b) + more + 63) // 64 * 64
    c.room = <char*> malloc(threads * c.room_size + 64)
    if c.room == NULL:
        raise MemoryError()
    return 0

cdef inline char* room_of_thread(const Call* c, int thread) noexcept nogil:
    return c.room + 64 - <size_t> c.room % 64 + thread * c.room_size

cdef inline Strip[wide_head]* strip_of_thread(const Call* c, bint gradients, wide_head* _) noexcept nogil:
    cdef Strip[wide_head]* b = NULL
    scratch_size(&c.t, gradients, room_of_thread(c, softcore_thread()), &b)
    return b

cdef void attend_unit(const Call* c, Py_ssize_t i, bint parts, wide_head* _) noexcept nogil:
    cdef const Unit* u = &c.unit[i]
    cdef Strip[wide_head]* b = strip_of_thread(c, False, _)
    if parts:
        attend_part(&c.t, u.s, u.head, u.first, u.rows, u.start, b, <wide_head*> c.sums + u.place)
    else:
        attend_strip(&c.t, u.s, u.head, u.first, u.rows, b)

cdef void merge_unit(const Call* c, Py_ssize_t i, wide_head* _) noexcept nogil:
    cdef const Unit* u = &c.unit[i]
    if u.start == 0:
        merge_strip(&c.t, u.s, u.head, u.first, u.rows, strip_of_thread(c, False, _), <const wide_head*> c.sums + u.place)

cdef void gradients_unit(const Call* c, Py_ssize_t i, wide_head* _) noexcept nogil:
    cdef const Unit* u = &c.unit[i]
    cdef Strip[wide_head]* b = strip_of_thread(c, True, _)
    chunk_gradients(&c.t, u.s, u.head, u.start, b, <wide_head*> c.sums + u.place, c.done + u.counter)

cdef object run_attention(Call* c, bint gradients, bint dry, wide_head* _):
    cdef Py_ssize_t i, strips, chunks = 0, work = 0, most = strip_rows(_, gradients), width, counters
    cdef int threads, executor
    cdef bint parts
    for i in range(c.sequences):
        work += c.t.group * c.heads * c.s[i].queries * c.s[i].keys // 16 * (c.t.d + c.t.dv)
        chunks += c.heads * ((c.s[i].keys + CHUNK_KEYS - 1) // CHUNK_KEYS)
    add_units(c, most, True, False, 0)
    plan = choose_attention(work, c.units, chunks, gradients)
    if dry:
        return plan
    executor, threads = plan[0], plan[1]
    parts = executor == 9 and not gradients
    if parts or gradients:
        width = row_width(_, c.t.d if gradients else c.t.dv)
        free(c.unit)
        c.unit = NULL
        add_units(c, most, not gradients, True, width)
        c.sums = <char*> malloc(max(c.room_size, 1) * sizeof(wide_head) + 64)
        counters = c.unit[c.units - 1].counter + (c.unit[c.units - 1].rows + most - 1) // most if c.units else 0
        c.done = <int*> calloc(max(counters, 1), sizeof(int))
        if c.sums == NULL or c.done == NULL:
            raise MemoryError()
    open_room(c, threads, gradients, 0, _)
    with nogil:
        if gradients:
            if threads == 1:
                for i in range(c.units):
                    gradients_unit(c, i, _)
            else:  # in order, so that a chunk waits only for those that were begun
                for i in prange(c.units, num_threads=threads, schedule="dynamic", chunksize=1):
                    gradients_unit(c, i, _)
        elif threads == 1:
            for i in range(c.units):
                attend_unit(c, i, parts, _)
        else:  # of a causal mask the last strips have most to do
            for i in prange(c.units, num_threads=threads, schedule="dynamic", chunksize=1):
                attend_unit(c, c.units - 1 - i, parts, _)
        if parts:
            for i in prange(c.units, num_threads=threads, schedule="static"):
                merge_unit(c, i, _)
    return None

cdef object choose_attention = None

def configure_attention(choose):
    """Who plans attention: ``planner.choose_attention``."""
    global choose_attention
    choose_attention = choose

def attend(dtype, tuple arrays, dict how, bint gradients=False, bint dry=False):
    """Run attention, or its gradients: arrays by `Operands`, and in `how` what else there is (see ``ops/attention.py``)."""
    cdef Call c
    try:
        open_call(&c, arrays, how)
        if code_of(dtype) == DOUBLE:
            return run_attention(&c, gradients, dry, <double*> NULL)
        return run_attention(&c, gradients, dry, <float*> NULL)
    finally:
        free_call(&c)

# ------------------------------------------------------------------------------------------------ sinks and biases

cdef int sum_sinks(Call* c, double* total, wide_head* _) except -1:
    cdef Py_ssize_t h, i
    open_room(c, 1, True, 0, _)
    with nogil:
        for h in range(c.heads * c.t.group):
            total[h] = 0
            for i in range(c.sequences):
                total[h] += sink_gradient(&c.t, &c.s[i], h, strip_of_thread(c, True, _))
    return 0

def sink_gradients(dtype, tuple arrays, dict how):
    """The gradients of the sinks, in float64."""
    cdef Call c
    cdef cnp.ndarray total = None
    try:
        open_call(&c, arrays, how)
        total = cnp.PyArray_EMPTY(1, [c.heads * c.t.group], cnp.NPY_DOUBLE, 0)
        if code_of(dtype) == DOUBLE:
            sum_sinks(&c, <double*> cnp.PyArray_DATA(total), <double*> NULL)
        else:
            sum_sinks(&c, <double*> cnp.PyArray_DATA(total), <float*> NULL)
    finally:
        free_call(&c)
    return total

cdef struct Biases:
    Sharer* who           # those that share a bias lie next to each other
    Py_ssize_t* first     # where those of each begin, and where the last end
    Py_ssize_t count, queries, keys, rows, columns
    bint one_row, one_column

cdef void bias_unit(const Call* c, const Biases* g, Py_ssize_t i, Py_ssize_t more, wide_head* _) noexcept nogil:
    cdef Py_ssize_t row = i // g.columns % g.rows, column = i % g.columns, n = i // g.columns // g.rows, most = strip_rows(_, True)
    cdef Strip[wide_head]* b = strip_of_thread(c, True, _)
    cdef double* room = <double*> (room_of_thread(c, softcore_thread() + 1) - more)
    bias_gradient(&c.t, g.who + g.first[n], g.first[n + 1] - g.first[n], row * most, column * CHUNK_KEYS, g.queries, g.keys, g.one_row, g.one_column, b, room)

cdef int sum_biases(Call* c, Biases* g, int threads, wide_head* _) except -1:
    cdef Py_ssize_t most = strip_rows(_, True), more = most * CHUNK_KEYS * sizeof(double), i, units
    g.rows = 1 if g.one_row else (g.queries + most - 1) // most
    g.columns = 1 if g.one_column else (g.keys + CHUNK_KEYS - 1) // CHUNK_KEYS
    units = g.count * g.rows * g.columns
    open_room(c, threads, True, more, _)
    with nogil:
        for i in prange(units, num_threads=threads, schedule="dynamic", chunksize=1):
            bias_unit(c, g, i, more, _)
    return 0

def bias_gradients(dtype, tuple arrays, dict how, Py_ssize_t queries, Py_ssize_t keys, int threads):
    """The gradient of the bias, into the last of the arrays: which has the full shape, by strides of 0 where the bias was broadcast."""
    cdef Call c
    cdef Biases g
    cdef Py_ssize_t i, h, n = 0
    g.who = NULL
    g.first = NULL
    try:
        open_call(&c, arrays, how)
        g.queries = queries
        g.keys = keys
        g.one_row = c.t.layout[<int> OF_DBIAS].row == 0
        g.one_column = c.t.layout[<int> OF_DBIAS].column == 0
        sharers = {}
        for i in range(c.sequences):
            for h in range(c.heads * c.t.group):
                sharers.setdefault(<size_t> address_of(&c.t, &c.s[i], OF_DBIAS, h, 0), []).append((i, h))
        g.count = len(sharers)
        g.who = <Sharer*> malloc(max(c.sequences * c.heads * c.t.group, 1) * sizeof(Sharer))
        g.first = <Py_ssize_t*> malloc((g.count + 1) * sizeof(Py_ssize_t))
        if g.who == NULL or g.first == NULL:
            raise MemoryError()
        g.first[0] = 0
        for count, who in enumerate(sharers.values()):
            for i, h in who:
                g.who[n].s = &c.s[i]
                g.who[n].head = h
                n += 1
            g.first[<Py_ssize_t> count + 1] = n
        if code_of(dtype) == DOUBLE:
            sum_biases(&c, &g, threads, <double*> NULL)
        else:
            sum_biases(&c, &g, threads, <float*> NULL)
    finally:
        free(g.who)
        free(g.first)
        free_call(&c)

# ------------------------------------------------------------------------------------------------ merge

cdef inline char* place_of_row(const Operand* a, const Py_ssize_t* shape, int nouter, Py_ssize_t r) noexcept nogil:
    cdef char* p = a.data
    cdef int d
    for d in range(nouter - 1, -1, -1):
        p += r % shape[d] * a.outer[d]
        r = r // shape[d]
    return p

cdef void merge_rows_of(const Operand* a, Py_ssize_t parts, const Py_ssize_t* shape, int nouter, Py_ssize_t first, Py_ssize_t last, PartRow* row) noexcept nogil:
    # a: o and lse of each part, then of the result.
    cdef const Operand* o = a + 2 * parts
    cdef const Operand* lse = o + 1
    cdef Py_ssize_t r, i
    for r in range(first, last):
        for i in range(parts):
            row[i].o = place_of_row(a + 2 * i, shape, nouter, r)
            row[i].lse = place_of_row(a + 2 * i + 1, shape, nouter, r)
        merge_parts_of_row(row, parts, shape[nouter], a[0].length[0], a[0].code, a[1].code, place_of_row(o, shape, nouter, r), o.length[0], o.code,
                           place_of_row(lse, shape, nouter, r), lse.code)

def merge_parts(list arrays, int threads):
    """arrays: o and lse of each part, all of one dtype and layout each, then those of the result."""
    cdef Py_ssize_t parts = len(arrays) // 2 - 1, rows = 1, i
    cdef Py_ssize_t shape[DIMS]
    cdef int nouter = arrays[0].ndim - 1, d, k
    cdef Operand* a = <Operand*> malloc(len(arrays) * sizeof(Operand))
    cdef PartRow* row = <PartRow*> malloc(threads * max(parts, 1) * sizeof(PartRow))
    try:
        if a == NULL or row == NULL:
            raise MemoryError()
        for i in range(len(arrays)):
            set_gate_operand(&a[i], arrays[i], nouter)
        for d in range(nouter + 1):
            shape[d] = arrays[0].shape[d]
            rows *= shape[d] if d < nouter else 1
        with nogil:
            for k in prange(threads, num_threads=threads, schedule="static"):
                merge_rows_of(a, parts, shape, nouter, rows * k // threads, rows * (k + 1) // threads, row + k * parts)
    finally:
        free(a)
        free(row)
