# softmax_gate, topk_gate and their backwards.
#
# The weights of softmax_gate are those of softmax: r is small beside x, so its rows go through the kernels of softmax into
# scratch memory, a frame of weights at a time, and x is then read once.  A row of up to a frame is weighed whole; a longer one
# is folded first and weighed frame by frame.  Sums over frames are added in their order.

ctypedef fused wide:  # what weights are computed in
    float
    double

cdef enum:
    RANGES = 32  # parts of a sum over items that share an r

cdef struct Mixture:
    Task t          # arg: r, and its weights in scratch
    Kernel softmax
    Operand x       # length: rows, columns
    Operand o       # the result or its gradient; length: columns
    Operand lse
    Operand dx
    Operand dr
    bint has_lse, has_dx, has_dr
    bint plain      # dx can be written as it lies
    bint streaming
    Py_ssize_t d
    Py_ssize_t group  # items that share an r (or in `spread` an x), and lie next to each other
    Py_ssize_t ahead  # bytes

# ------------------------------------------------------------------------------------------------ weights

cdef void start_weights(Task* t, wide* _) noexcept nogil:
    # Weights lie one row after the other, whatever the layout of r.
    cdef int d = t.nouter - 1
    cdef Py_ssize_t step = t.n * sizeof(wide)
    while d >= 0:
        t.arg[1].outer[d] = step
        step *= t.outer[d]
        d -= 1

cdef void weigh(Task* t, const Kernel* k, Py_ssize_t first, Py_ssize_t last, wide* w) noexcept nogil:
    # The weights of whole rows, which fit a frame.
    t.arg[1].data = <char*> w - first * t.n * <Py_ssize_t> sizeof(wide)
    whole_rows(t, k, first, last)

cdef void fold_row(const Task* t, const Kernel* k, const Row* row, Room* room) noexcept nogil:
    cdef Room chunk
    cdef Py_ssize_t j = k.chunk
    k.fold(t, row, 0, min(t.n, k.chunk), room, NULL)
    while j < t.n:
        k.fold(t, row, j, min(t.n, j + k.chunk), &chunk, NULL)
        k.merge(t, room, &chunk, NULL)
        j += k.chunk

cdef void weigh_part(const Task* t, const Kernel* k, Row* row, const Room* room, Py_ssize_t j, Py_ssize_t end, wide* w) noexcept nogil:
    # Weights j to end of a row whose state is known.
    row.at[1] = <char*> w - j * <Py_ssize_t> sizeof(wide)
    k.map(t, row, j, end, room, NULL)

cdef inline Py_ssize_t rows_to_weigh(const Task* t, wide* _) noexcept nogil:
    return max(1, frame_size(_) // max(1, t.n))

# ------------------------------------------------------------------------------------------------ softmax_gate

cdef void put_logarithm(const Mixture* m, const Task* t, Py_ssize_t item, wide* _) noexcept nogil:
    cdef Room room
    cdef Row row
    cdef Source from_
    cdef Mass[double] mass
    cdef const State[double]* s = <const State[double]*> &room
    cdef wide lse
    enter(t, item, &row)
    fold_row(t, &m.softmax, &row, &room)
    from_.task = t
    from_.row = &row
    mass = mass_of(&from_, t.n, s, t.scale, _)
    lse = <wide> logarithm_of_row(_, s, &mass, t.scale)
    put_results(row_start(t, &m.lse, item), 0, &lse, 1, m.lse.code)

cdef inline Py_ssize_t count_blocks(const Mixture* m) noexcept nogil:
    return max(1, (m.d + WIDTH - 1) // WIDTH)

cdef void blend_part(const Mixture* m, Blend[wide]* b, const char* x, Py_ssize_t block, Py_ssize_t j, Py_ssize_t end, const wide* w, const unsigned char* mask) noexcept nogil:
    # The sum over rows j to end of x, for a block of columns.
    cdef Py_ssize_t d = min(WIDTH, m.d - block * WIDTH)
    empty_blend(b, d)
    blend_rows(b, x + j * m.x.length[0] + block * WIDTH * m.x.length[1], m.x.length[0], m.x.length[1], m.x.code, w, mask, end - j, d, m.ahead)

cdef void gate_units(const Mixture* m, Py_ssize_t first, Py_ssize_t last, wide* _) noexcept nogil:
    # Unit u is a block of columns of an item; the weights serve all blocks of a thread.
    cdef Task t = m.t
    cdef char weights[FRAME_SCRATCH]
    cdef unsigned char masks[FRAME_SCRATCH]
    cdef unsigned char* mask
    cdef wide* w = <wide*> weights
    cdef Blend[wide] total, part
    cdef Row row
    cdef Room room
    cdef Py_ssize_t blocks = count_blocks(m), frame = frame_size(_), item, weighed = -1, begin = 0, unit, block, j, end, d
    cdef Py_ssize_t upto = (last + blocks - 1) // blocks
    start_weights(&t, _)
    for unit in range(first, last):
        item = unit // blocks
        block = unit % blocks
        d = min(WIDTH, m.d - block * WIDTH)
        enter(&t, item, &row)
        if t.n <= frame:
            if item >= weighed:
                begin = item
                weighed = min(upto, item + rows_to_weigh(&t, _))
                weigh(&t, &m.softmax, begin, weighed, w)
            mask = take_mask(&t, &row, 0, t.n, masks)
            blend_part(m, &total, row_start(&t, &m.x, item), block, 0, t.n, w + (item - begin) * t.n, mask)
        else:
            if item != weighed:
                fold_row(&t, &m.softmax, &row, &room)
                weighed = item
            empty_blend(&total, d)
            j = 0
            while j < t.n:
                end = min(t.n, j + frame)
                weigh_part(&t, &m.softmax, &row, &room, j, end, w)
                mask = take_mask(&t, &row, j, end - j, masks)
                blend_part(m, &part, row_start(&t, &m.x, item), block, j, end, <const wide*> w, mask)
                merge_blend(&total, part.high, part.low, d)
                j = end
        put_blend(&total, row_start(&t, &m.o, item) + block * WIDTH * m.o.length[0], m.o.length[0], d, m.o.code)
        if m.has_lse and block == 0:
            put_logarithm(m, &t, item, _)

cdef void gate_parts(const Mixture* m, Py_ssize_t item, const Room* room, double* high, double* low, Py_ssize_t first, Py_ssize_t last, wide* _) noexcept nogil:
    # Frames first to last of one long row, their sums apart.
    cdef char weights[FRAME_SCRATCH]
    cdef unsigned char masks[FRAME_SCRATCH]
    cdef unsigned char* mask
    cdef Blend[wide] part
    cdef Row row
    cdef Py_ssize_t frame = frame_size(_), f, j, end, block, c
    enter(&m.t, item, &row)
    for f in range(first, last):
        j = f * frame
        end = min(m.t.n, j + frame)
        weigh_part(&m.t, &m.softmax, &row, room, j, end, <wide*> weights)
        mask = take_mask(&m.t, &row, j, end - j, masks)
        for block in range(count_blocks(m)):
            blend_part(m, &part, row_start(&m.t, &m.x, item), block, j, end, <const wide*> weights, mask)
            for c in range(min(WIDTH, m.d - block * WIDTH)):
                high[f * m.d + block * WIDTH + c] = part.high[c]
                low[f * m.d + block * WIDTH + c] = part.low[c]

cdef void fold_split(const Mixture* m, Py_ssize_t item, Room* rooms, int threads) noexcept nogil:
    cdef Py_ssize_t chunks = (m.t.n + m.softmax.chunk - 1) // m.softmax.chunk, c
    cdef Row row
    cdef int i
    enter(&m.t, item, &row)
    for i in prange(threads, num_threads=threads, schedule="static"):
        fold_chunks(&m.t, &m.softmax, &row, rooms, chunks * i // threads, chunks * (i + 1) // threads)
    for c in range(1, chunks):
        m.softmax.merge(&m.t, &rooms[0], &rooms[c], NULL)

cdef void gate_split(const Mixture* m, Room* rooms, double* sums, int threads, wide* _) noexcept nogil:
    # One long row at a time, its frames over the threads; their sums meet in order.
    cdef Py_ssize_t frames = (m.t.n + frame_size(_) - 1) // frame_size(_), item, block, f, d
    cdef double* low = sums + frames * m.d
    cdef Blend[wide] total
    cdef int i
    for item in range(m.t.rows):
        fold_split(m, item, rooms, threads)
        for i in prange(threads, num_threads=threads, schedule="static"):
            gate_parts(m, item, rooms, sums, low, frames * i // threads, frames * (i + 1) // threads, _)
        for block in range(count_blocks(m)):
            d = min(WIDTH, m.d - block * WIDTH)
            empty_blend(&total, d)
            for f in range(frames):
                merge_blend(&total, sums + f * m.d + block * WIDTH, low + f * m.d + block * WIDTH, d)
            put_blend(&total, row_start(&m.t, &m.o, item) + block * WIDTH * m.o.length[0], m.o.length[0], d, m.o.code)
        if m.has_lse:
            put_logarithm(m, &m.t, item, _)

# ------------------------------------------------------------------------------------------------ softmax_gate_backward

cdef GradientRows gradient_rows_at(const Mixture* m, Py_ssize_t item, Py_ssize_t j) noexcept nogil:
    cdef GradientRows g
    g.x.data = row_start(&m.t, &m.x, item) + j * m.x.length[0]
    g.x.row = m.x.length[0]
    g.x.column = m.x.length[1]
    g.x.code = m.x.code
    g.y.data = row_start(&m.t, &m.o, item)
    g.y.row = 0
    g.y.column = m.o.length[0]
    g.y.code = m.o.code
    g.dx.data = row_start(&m.t, &m.dx, item) + j * m.dx.length[0] if m.has_dx else NULL
    g.dx.row = m.dx.length[0]
    g.dx.column = m.dx.length[1]
    g.dx.code = m.dx.code
    g.plain = m.plain
    g.d = m.d
    g.ahead = m.ahead
    return g

cdef double gradient_part(const Mixture* m, Py_ssize_t item, Py_ssize_t j, Py_ssize_t end, const wide* w, const unsigned char* mask, wide* s, AnyStreamed* streamed) noexcept nogil:
    # s and dx of rows j to end, and the sum of w s over them.
    cdef GradientRows g = gradient_rows_at(m, item, j)
    gradient_rows_of(&g, w, mask, end - j, s, streamed, m.streaming)
    return weighted_total(w, <const wide*> s, end - j)

cdef void gradient_items(const Mixture* m, Py_ssize_t first, Py_ssize_t last, wide* s, double* sum, wide* _) noexcept nogil:
    # The items first to last; s has room for n, and so has sum, to which their dr is added, where given.
    cdef Task t = m.t
    cdef char weights[FRAME_SCRATCH]
    cdef unsigned char masks[FRAME_SCRATCH]
    cdef unsigned char* mask
    cdef wide* w = <wide*> weights
    cdef AnyStreamed streamed
    cdef Row row
    cdef Room room
    cdef double total
    cdef Py_ssize_t frame = frame_size(_), item, weighed = first, begin = 0, j, end
    start_weights(&t, _)
    for item in range(first, last):
        enter(&t, item, &row)
        if t.n <= frame:
            if item == weighed:
                begin = item
                weighed = min(last, item + rows_to_weigh(&t, _))
                weigh(&t, &m.softmax, begin, weighed, w)
            w = <wide*> weights + (item - begin) * t.n
            mask = take_mask(&t, &row, 0, t.n, masks)
            total = gradient_part(m, item, 0, t.n, <const wide*> w, mask, s, &streamed)
            if m.has_dr:
                gradient_of_weights(<const wide*> w, s, mask, t.n, total, m.t.scale * m.t.factor, sum)
            w = <wide*> weights
        else:
            fold_row(&t, &m.softmax, &row, &room)
            total = 0
            j = 0
            while j < t.n:
                end = min(t.n, j + frame)
                weigh_part(&t, &m.softmax, &row, &room, j, end, w)
                mask = take_mask(&t, &row, j, end - j, masks)
                total += gradient_part(m, item, j, end, <const wide*> w, mask, s + j, &streamed)
                j = end
            j = 0
            while m.has_dr and j < t.n:
                end = min(t.n, j + frame)
                weigh_part(&t, &m.softmax, &row, &room, j, end, w)
                mask = take_mask(&t, &row, j, end - j, masks)
                gradient_of_weights(<const wide*> w, s + j, mask, end - j, total, m.t.scale * m.t.factor, sum + j if sum != NULL else NULL)
                j = end
        if m.has_dr and sum == NULL:
            put_results(row_start(&t, &m.dr, item), m.dr.length[0], <const wide*> s, t.n, m.dr.code)
    finish_lines(&streamed)
    if m.streaming:
        fence()

cdef inline Py_ssize_t range_start(const Mixture* m, Py_ssize_t i) noexcept nogil:
    # Items that share an r are added up in ranges, and the ranges in order: their number depends on that of the items alone.
    return m.group * i // min(RANGES, m.group)

cdef void put_shared(const Mixture* m, Py_ssize_t item, const double* sums, Py_ssize_t count, wide* s) noexcept nogil:
    # dr of an r that many items share.
    cdef Py_ssize_t i, j
    cdef double sum
    for j in range(m.t.n):
        sum = 0
        for i in range(count):
            sum += sums[i * m.t.n + j]
        s[j] = <wide> sum
    put_results(row_start(&m.t, &m.dr, item), m.dr.length[0], <const wide*> s, m.t.n, m.dr.code)

cdef void gradient_ranges(const Mixture* m, Py_ssize_t group, Py_ssize_t first, Py_ssize_t last, wide* s, double* sums, wide* _) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(first, last):
        zero_doubles(sums + i * m.t.n, m.t.n)
        gradient_items(m, group * m.group + range_start(m, i), group * m.group + range_start(m, i + 1), s, sums + i * m.t.n, _)

cdef void gradient_groups(const Mixture* m, Py_ssize_t first, Py_ssize_t last, wide* s, double* sums, wide* _) noexcept nogil:
    cdef Py_ssize_t group, count = min(RANGES, m.group)
    for group in range(first, last):
        gradient_ranges(m, group, 0, count, s, sums, _)
        put_shared(m, group * m.group, sums, count, s)

cdef void gradient_frames(const Mixture* m, Py_ssize_t item, const Room* room, wide* s, double* totals, Py_ssize_t first, Py_ssize_t last, const double* total, wide* _) noexcept nogil:
    # Frames first to last of one long row: s, dx and their totals; or, with the total of all, dr in the place of s.
    cdef char weights[FRAME_SCRATCH]
    cdef unsigned char masks[FRAME_SCRATCH]
    cdef unsigned char* mask
    cdef AnyStreamed streamed
    cdef Row row
    cdef Py_ssize_t frame = frame_size(_), f, j, end
    enter(&m.t, item, &row)
    for f in range(first, last):
        j = f * frame
        end = min(m.t.n, j + frame)
        weigh_part(&m.t, &m.softmax, &row, room, j, end, <wide*> weights)
        mask = take_mask(&m.t, &row, j, end - j, masks)
        if total == NULL:
            totals[f] = gradient_part(m, item, j, end, <const wide*> weights, mask, s + j, &streamed)
        else:
            gradient_of_weights(<const wide*> weights, s + j, mask, end - j, total[0], m.t.scale * m.t.factor, NULL)
    finish_lines(&streamed)
    if m.streaming:
        fence()

cdef void gradient_split(const Mixture* m, Room* rooms, double* totals, wide* s, int threads, wide* _) noexcept nogil:
    cdef Py_ssize_t frames = (m.t.n + frame_size(_) - 1) // frame_size(_), item, f
    cdef double total
    cdef int i
    for item in range(m.t.rows):
        fold_split(m, item, rooms, threads)
        for i in prange(threads, num_threads=threads, schedule="static"):
            gradient_frames(m, item, rooms, s, totals, frames * i // threads, frames * (i + 1) // threads, NULL, _)
        total = 0
        for f in range(frames):
            total += totals[f]
        for i in prange(threads, num_threads=threads, schedule="static"):
            gradient_frames(m, item, rooms, s, totals, frames * i // threads, frames * (i + 1) // threads, &total, _)
        put_results(row_start(&m.t, &m.dr, item), m.dr.length[0], <const wide*> s, m.t.n, m.dr.code)

cdef void spread_units(const Mixture* m, Py_ssize_t first, Py_ssize_t last, Spread[wide]* b, wide* _) noexcept nogil:
    # dx of an x that `group` items share.  Unit: a few rows of a block of columns.
    cdef Task t = m.t
    cdef char weights[FRAME_SCRATCH]
    cdef wide* w = <wide*> weights
    cdef Row row
    cdef Room room
    cdef Py_ssize_t rows = min(rows_to_spread(_, min(WIDTH, m.d)), frame_size(_)), blocks = count_blocks(m), tiles = (t.n + rows - 1) // rows
    cdef Py_ssize_t unit, x, block, j, end, d, g, i, count, item
    start_weights(&t, _)
    for unit in range(first, last):
        x = unit // (blocks * tiles)
        block = unit // tiles % blocks
        d = min(WIDTH, m.d - block * WIDTH)
        j = unit % tiles * rows
        end = min(t.n, j + rows)
        empty_spread(b)
        g = 0
        while g < m.group:
            count = min(8, m.group - g)
            for i in range(count):
                item = x * m.group + g + i
                enter(&t, item, &row)
                b.y[i] = row_start(&t, &m.o, item) + block * WIDTH * m.o.length[0]
                if t.n <= frame_size(_):
                    weigh(&t, &m.softmax, item, item + 1, w)
                    set_weights(b, i, w + j, end - j)
                else:
                    fold_row(&t, &m.softmax, &row, &room)
                    weigh_part(&t, &m.softmax, &row, &room, j, end, w)
                    set_weights(b, i, w, end - j)
                if t.masked:
                    gather_tile(&t, &t.mask, row.mask, j, end - j, spread_mask(b, i))
            spread_eight(b, count, m.o.length[0], m.o.code, t.masked, end - j, d)
            g += count
            if g % 64 == 0 or g == m.group:
                close_spread(b, end - j, d)
        put_spread(<const Spread[wide]*> b, row_start(&t, &m.dx, x * m.group) + j * m.dx.length[0] + block * WIDTH * m.dx.length[1], m.dx.length[0], m.dx.length[1], end - j, d, m.dx.code)

# ------------------------------------------------------------------------------------------------ how they are run

cdef int run_gate(Mixture* m, int executor, int threads, wide* _) except -1 nogil:
    cdef Py_ssize_t units = m.t.rows * count_blocks(m), frames = (m.t.n + frame_size(_) - 1) // frame_size(_)
    cdef Room* rooms
    cdef double* sums
    cdef int i
    if executor == 1:
        rooms = <Room*> malloc(((m.t.n + m.softmax.chunk - 1) // m.softmax.chunk) * sizeof(Room))
        sums = <double*> malloc(2 * frames * m.d * sizeof(double))
        if rooms != NULL and sums != NULL:
            gate_split(m, rooms, sums, threads, _)
        free(rooms)
        free(sums)
        if rooms == NULL or sums == NULL:
            with gil:
                raise MemoryError()
    elif threads == 1:
        gate_units(m, 0, units, _)
    else:
        for i in prange(threads, num_threads=threads, schedule="static"):
            gate_units(m, units * i // threads, units * (i + 1) // threads, _)
    return 0

cdef int run_gradient(Mixture* m, int executor, int threads, wide* _) except -1 nogil:
    # s for each thread, and sums where items share an r.
    cdef Py_ssize_t groups = m.t.rows // m.group, ranges = min(RANGES, m.group), n = max(1, m.t.n), frames = (n + frame_size(_) - 1) // frame_size(_)
    cdef Py_ssize_t group
    cdef bint shared = m.group > 1, together = shared and groups < threads
    cdef wide* s = <wide*> malloc(n * threads * sizeof(wide))
    cdef double* sums = <double*> malloc((ranges * n * (1 if together else threads) if shared else frames) * sizeof(double))
    cdef Room* rooms = <Room*> malloc(((n + m.softmax.chunk - 1) // m.softmax.chunk) * sizeof(Room))
    cdef bint full = s == NULL or sums == NULL or rooms == NULL
    cdef int i
    if not full:
        if executor == 1 and not shared:
            gradient_split(m, rooms, sums, s, threads, _)
        elif threads == 1 and not shared:
            gradient_items(m, 0, m.t.rows, s, NULL, _)
        elif threads == 1:
            gradient_groups(m, 0, groups, s, sums, _)
        elif not shared:
            for i in prange(threads, num_threads=threads, schedule="static"):
                gradient_items(m, m.t.rows * i // threads, m.t.rows * (i + 1) // threads, s + i * n, NULL, _)
        elif together:
            for group in range(groups):
                for i in prange(threads, num_threads=threads, schedule="static"):
                    gradient_ranges(m, group, ranges * i // threads, ranges * (i + 1) // threads, s + i * n, sums, _)
                put_shared(m, group * m.group, sums, ranges, s)
        else:
            for i in prange(threads, num_threads=threads, schedule="static"):
                gradient_groups(m, groups * i // threads, groups * (i + 1) // threads, s + i * n, sums + i * n * ranges, _)
    free(s)
    free(sums)
    free(rooms)
    if full:
        with gil:
            raise MemoryError()
    return 0

cdef int run_spread(Mixture* m, int threads, wide* _) except -1 nogil:
    cdef Py_ssize_t rows = min(rows_to_spread(_, min(WIDTH, m.d)), frame_size(_))
    cdef Py_ssize_t units = m.t.rows // m.group * count_blocks(m) * ((m.t.n + rows - 1) // rows)
    cdef void* room = malloc(threads * sizeof(Spread[wide]) + 64)
    cdef Spread[wide]* b = <Spread[wide]*> ((<size_t> room + 63) // 64 * 64)
    cdef int i
    if room == NULL:
        with gil:
            raise MemoryError()
    if threads == 1:
        spread_units(m, 0, units, b, _)
    else:
        for i in prange(threads, num_threads=threads, schedule="static"):
            spread_units(m, units * i // threads, units * (i + 1) // threads, b + i, _)
    free(room)
    return 0

cdef void set_gate_operand(Operand* a, cnp.ndarray x, int nouter) except *:
    cdef int d
    a.data = <char*> cnp.PyArray_DATA(x)
    a.itemsize = cnp.PyArray_ITEMSIZE(x)
    a.code = code_of(x.dtype)
    for d in range(nouter):
        a.outer[d] = cnp.PyArray_STRIDES(x)[d]
    for d in range(nouter, cnp.PyArray_NDIM(x)):
        a.length[d - nouter] = cnp.PyArray_STRIDES(x)[d]

def mix(str op, dtype, x, r, o, mask, lse=None, dx=None, dr=None, double scale=1.0, Py_ssize_t group=1, bint dry=False):
    """Run softmax_gate, its gradients ("softmax_gate_backward"), or that of an x which items share ("softmax_gate_spread").

    All operands have the same batch dimensions, broadcast where need be; o is the result or its gradient. `group` items that
    lie next to each other share an r, or with "softmax_gate_spread" an x: their gradients are added.
    """
    cdef Mixture m
    cdef int code = code_of(dtype), nouter = x.ndim - 2, d, threads, executor
    cdef bint spread = op == "softmax_gate_spread"
    cdef Py_ssize_t itemsize = x.dtype.itemsize, work
    begin_task(&m.t)
    m.t.nargs = 2
    m.t.ninputs = 1
    m.t.nouter = nouter
    m.t.nlength = 1
    m.t.rows = 1
    for d in range(nouter):
        m.t.outer[d] = x.shape[d]
        m.t.rows *= x.shape[d]
    m.t.n = m.t.length[0] = x.shape[nouter]
    m.d = x.shape[nouter + 1]
    m.t.scale = scale
    m.t.masked = mask is not None
    if m.t.masked:
        set_gate_operand(&m.t.mask, mask, nouter)
        m.t.mask.code = BOOL
    set_gate_operand(&m.t.arg[0], r, nouter)
    m.t.arg[0].direct = m.t.arg[0].code == code and m.t.arg[0].length[0] == m.t.arg[0].itemsize
    m.t.arg[1].code = code
    m.t.arg[1].itemsize = m.t.arg[1].length[0] = 4 if code == FLOAT else 8
    m.t.arg[1].direct = True
    if not (scale > 0 and isfinite(scale)):  # see run
        m.t.factor = -1 if scale < 0 and isfinite(scale) else scale
        m.t.scale = -scale if m.t.factor == -1 else 1
        m.t.arg[0].direct = False
    kernel_of(&m.t, SOFTMAX, code, &m.softmax)
    set_gate_operand(&m.x, x, nouter)
    set_gate_operand(&m.o, o, nouter)
    m.has_lse = lse is not None
    m.has_dx = dx is not None
    m.has_dr = dr is not None
    m.plain = False
    if m.has_lse:
        set_gate_operand(&m.lse, lse, nouter)
    if m.has_dx:
        set_gate_operand(&m.dx, dx, nouter)
        m.plain = m.dx.length[1] == m.dx.itemsize and dx.flags.aligned and (m.dx.code == code or (code == FLOAT and m.dx.code <= FLOAT))
    if m.has_dr:
        set_gate_operand(&m.dr, dr, nouter)
    m.group = group
    work = m.t.rows * m.t.n * m.d
    if work <= small_work and not dry:
        executor = 0
        threads = 1
        m.streaming = False
    else:
        whole = m.t.n <= FRAME_SCRATCH // m.t.arg[1].itemsize or spread or group > 1
        plan = choose(op, m.t.rows * (1 if m.has_dx or m.has_dr else count_blocks(&m)), m.t.n * (m.d if m.has_dx or m.has_dr else min(m.d, WIDTH)), 1,
                      itemsize, 2 if m.has_dx else 1, True, False, False, False, m.has_dx, whole)
        if dry:
            return plan
        executor = plan[0]
        threads = plan[1]
        m.streaming = plan[2]
    if op == "softmax_gate":
        m.ahead = ahead_of(m.x.length[0], BLENDED_AHEAD)
    else:  # beside writes past the cache, reads must start early
        m.ahead = ahead_of(m.x.length[0], SPREAD_AHEAD) if m.streaming else 0
    if group > 1 and not spread:  # ranges of what is shared are work of their own
        threads = max(1, min(threads, max(m.t.rows // group, min(RANGES, group))))
    with nogil:
        if op == "softmax_gate":
            if code == FLOAT:
                run_gate(&m, executor, threads, <float*> NULL)
            else:
                run_gate(&m, executor, threads, <double*> NULL)
        elif spread:
            if code == FLOAT:
                run_spread(&m, threads, <float*> NULL)
            else:
                run_spread(&m, threads, <double*> NULL)
        elif code == FLOAT:
            run_gradient(&m, executor, threads, <float*> NULL)
        else:
            run_gradient(&m, executor, threads, <double*> NULL)

# ------------------------------------------------------------------------------------------------ topk_gate

# arg: r in its own dtype, weights, indices.  The weights are at first the chosen elements themselves, which `softmax` then
# goes over like any other array; or, of the softmax over all, their shares.

cdef void choose_rows(const Task* t, const Kernel* softmax, Py_ssize_t k, Py_ssize_t first, Py_ssize_t last, char* kept, long long* index) noexcept nogil:
    cdef Row row, chosen
    cdef Room room
    cdef Task few
    cdef Py_ssize_t r, i, stride = stride_of(t, &t.arg[0])
    if softmax != NULL:
        few = t[0]
        few.nargs = 2
        few.ninputs = 1
        few.arg[0] = t.arg[1]
        few.arg[1] = t.arg[1]
        few.length[0] = k  # but few.n is that of the row: its state is that of all elements
        few.arg[0].direct = few.arg[1].direct = t.arg[1].length[0] == t.arg[1].itemsize
    for r in range(first, last):
        enter(t, r, &row)
        choose_row(row.at[0], stride, t.n, t.arg[0].code, k, kept, index)
        for i in range(k):
            copy_as(row.at[1] + i * t.arg[1].length[0], t.arg[1].code, row.at[0] + index[i] * stride, t.arg[0].code)
            put_index(row.at[2] + i * t.arg[2].length[0], index[i])
        if softmax != NULL:
            fold_row(t, softmax, &row, &room)
            chosen.at[0] = chosen.at[1] = row.at[1]
            chosen.mask = NULL
            softmax.map(&few, &chosen, 0, k, &room, NULL)

cdef int run_choice(const Task* t, const Kernel* softmax, Py_ssize_t k, int threads) except -1 nogil:
    cdef Py_ssize_t room = entries_of_choice(t.n, k) * ENTRY_BYTES
    cdef char* kept = <char*> malloc(threads * room)
    cdef long long* index = <long long*> malloc(threads * k * sizeof(long long))
    cdef bint full = kept == NULL or index == NULL
    cdef int i
    if not full:
        if threads == 1:
            choose_rows(t, softmax, k, 0, t.rows, kept, index)
        else:
            for i in prange(threads, num_threads=threads, schedule="static"):
                choose_rows(t, softmax, k, t.rows * i // threads, t.rows * (i + 1) // threads, kept + i * room, index + i * k)
    free(kept)
    free(index)
    if full:
        with gil:
            raise MemoryError()
    return 0

# The gradients of row r, elements j to end: g where they were chosen.
cdef inline void put_chosen(const Task* t, Py_ssize_t r, Py_ssize_t j, Py_ssize_t end, const wide* g, const long long* index, Py_ssize_t k, const wide* y, double total) noexcept nogil:
    cdef char tile[FRAME_SCRATCH]
    cdef Py_ssize_t step = t.arg[4].length[0]
    cdef char* to = row_start(t, &t.arg[4], r) + j * step
    cdef bint there = step == sizeof(wide) and t.arg[4].code == code_of_storage(g) and <size_t> to % sizeof(wide) == 0
    cdef wide* dr = <wide*> (to if there else tile)
    scatter_chosen(dr, j, end - j, g, index, k, y, total)
    if not there:
        put_results(to, step, <const wide*> dr, end - j, t.arg[4].code)

# Of rows whose softmax is over the few that they chose: some rows side by side, as columns. False where there is no memory for it.
cdef bint unchoose_few(const Task* t, Py_ssize_t k, Py_ssize_t first, Py_ssize_t last, wide* _) noexcept nogil:
    cdef Py_ssize_t most = GROUPS * lanes(_), bytes = most * k * sizeof(wide), stride = stride_of(t, &t.arg[0]), width, count, i, j, end
    cdef char* memory = <char*> malloc(2 * bytes + (most + 1) * k * sizeof(double) + 64)
    cdef wide* w = <wide*> ((<size_t> memory + 63) // 64 * 64)
    cdef wide* g = w + most * k
    cdef long long* index = <long long*> (g + most * k)
    cdef wide* own = <wide*> (index + most * k)  # of one row
    cdef Task few
    cdef Slab slab
    cdef Row row
    if memory == NULL:
        return False
    begin_task(&few)
    slab.n = k
    slab.at[0] = slab.at[1] = <char*> w
    while first < last:
        count = min(most, last - first)
        slab.width = width = (count + lanes(_) - 1) // lanes(_) * lanes(_)
        slab.stride[0] = slab.stride[1] = width * sizeof(wide)
        memset(w, 0, 2 * bytes)
        enter(t, first, &row)
        for i in range(count):
            if i:
                enter_next(t, first + i, &row)
            gather(index + i * k, row.at[3], t.arg[3].length[0], k, t.arg[3].code)
            gather(own, row.at[2], t.arg[2].length[0], k, t.arg[2].code)
            for j in range(k):
                g[j * width + i] = own[j]
                gather(w + j * width + i, row.at[0] + index[i * k + j] * stride, 0, 1, t.arg[0].code)
        softmax_columns(&few, &slab, _)
        gradient_of_chosen(g, <const wide*> w, width, k)
        for i in range(count):
            for j in range(k):
                own[j] = g[j * width + i]
            j = 0
            while j < t.n:
                end = min(t.n, j + frame_size(_))
                put_chosen(t, first + i, j, end, <const wide*> own, index + i * k, k, <const wide*> NULL, 0)
                j = end
        first += count
    free(memory)
    return True

cdef void unchoose_rows(const Task* t, const Kernel* softmax, bint all, Py_ssize_t k, Py_ssize_t first, Py_ssize_t last, char* scratch, wide* _) noexcept nogil:
    # arg: r, dr, dw, indices.
    cdef char tile[FRAME_SCRATCH]
    cdef Task few = t[0]
    cdef Row row, chosen
    cdef Room room
    cdef wide* w = <wide*> scratch
    cdef wide* dw = w + k
    cdef long long* index = <long long*> (scratch + 2 * k * sizeof(double))
    cdef wide* y = <wide*> tile
    cdef Py_ssize_t r, i, j, end, stride = stride_of(t, &t.arg[0])
    cdef double total
    if not all and 1 < k <= SHORT and unchoose_few(t, k, first, last, _):
        return
    few.nargs = 2
    few.n = t.n if all else k
    few.nlength = 1
    few.length[0] = k
    few.arg[0].code = few.arg[1].code
    few.arg[0].direct = few.arg[1].direct = True
    few.arg[0].code = few.arg[1].code = FLOAT if wide is float else DOUBLE
    few.arg[0].length[0] = few.arg[1].length[0] = few.arg[0].itemsize = few.arg[1].itemsize = sizeof(wide)
    for r in range(first, last):
        enter(t, r, &row)
        gather(index, row.at[3], t.arg[3].length[0], k, t.arg[3].code)
        gather(dw, row.at[2], t.arg[2].length[0], k, t.arg[2].code)
        for i in range(k):
            gather(w + i, row.at[0] + index[i] * stride, 0, 1, t.arg[0].code)
        chosen.at[0] = chosen.at[1] = <char*> w
        chosen.mask = NULL
        if all:
            fold_row(t, softmax, &row, &room)
        else:
            fold_row(&few, softmax, &chosen, &room)
        softmax.map(&few, &chosen, 0, k, &room, NULL)
        total = dot_few(<const wide*> w, <const wide*> dw, k)
        if not all:
            gradient_few(dw, <const wide*> w, <const wide*> dw, total, k)
        j = 0
        while j < t.n:
            end = min(t.n, j + frame_size(_))
            if all:
                row.at[1] = <char*> y - j * <Py_ssize_t> sizeof(wide)
                softmax.map(t, &row, j, end, &room, NULL)
            put_chosen(t, r, j, end, <const wide*> dw, index, k, <const wide*> (y if all else NULL), total)
            j = end

cdef int run_unchoice(const Task* t, const Kernel* softmax, bint all, Py_ssize_t k, int threads, wide* _) except -1 nogil:
    cdef Py_ssize_t room = 3 * k * sizeof(double)
    cdef char* scratch = <char*> malloc(max(1, threads * room))
    cdef int i
    if scratch == NULL:
        with gil:
            raise MemoryError()
    if threads == 1:
        unchoose_rows(t, softmax, all, k, 0, t.rows, scratch, _)
    else:
        for i in prange(threads, num_threads=threads, schedule="static"):
            unchoose_rows(t, softmax, all, k, t.rows * i // threads, t.rows * (i + 1) // threads, scratch + i * room, _)
    free(scratch)
    return 0

cdef void set_choice(Task* t, object r, int nargs) except *:
    cdef int d
    begin_task(t)
    t.nargs = nargs
    t.nouter = r.ndim - 1
    t.nlength = 1
    t.length[0] = t.n = r.shape[t.nouter]
    t.rows = 1
    for d in range(t.nouter):
        t.outer[d] = r.shape[d]
        t.rows *= r.shape[d]

def choose_largest(dtype, r, weights, indices, bint renormalize, bint dry=False):
    """The k largest of each row of r: themselves in `weights`, or without `renormalize` their softmax among all; and where they are."""
    cdef Task t
    cdef Kernel softmax
    cdef const Kernel* share = NULL
    cdef int code = code_of(dtype), threads = 1
    cdef Py_ssize_t k = weights.shape[weights.ndim - 1]
    set_choice(&t, r, 3)
    t.ninputs = 1
    set_gate_operand(&t.arg[0], r, t.nouter)
    set_gate_operand(&t.arg[1], weights, t.nouter)
    set_gate_operand(&t.arg[2], indices, t.nouter)
    t.nouter = collapse(&t, t.nouter, t.outer, True)
    t.arg[0].direct = t.arg[0].code == code and t.arg[0].length[0] == t.arg[0].itemsize
    t.arg[1].direct = t.arg[1].length[0] == t.arg[1].itemsize
    if not renormalize:
        kernel_of(&t, SOFTMAX, code, &softmax)
        share = &softmax
    if dry or t.rows * t.n > small_work:
        plan = choose("topk_gate", t.rows, t.n, 1, t.arg[0].itemsize, 1, True, False, False, False, False, True)
        if dry:
            return plan
        threads = plan[1]
    with nogil:
        run_choice(&t, share, k, threads)

def choose_backward(dtype, dw, r, indices, dr, bint renormalize, bint dry=False):
    """The gradient of r, from that of the weights at `indices`."""
    cdef Task t
    cdef Kernel softmax
    cdef int code = code_of(dtype), threads = 1
    cdef Py_ssize_t k = indices.shape[indices.ndim - 1]
    set_choice(&t, r, 5)
    t.ninputs = 1
    set_gate_operand(&t.arg[0], r, t.nouter)
    set_gate_operand(&t.arg[1], r, t.nouter)  # stands for a scratch
    set_gate_operand(&t.arg[2], dw, t.nouter)
    set_gate_operand(&t.arg[3], indices, t.nouter)
    set_gate_operand(&t.arg[4], dr, t.nouter)
    t.nouter = collapse(&t, t.nouter, t.outer, True)
    t.arg[0].direct = t.arg[0].code == code and t.arg[0].length[0] == t.arg[0].itemsize
    t.arg[1].direct = True
    kernel_of(&t, SOFTMAX, code, &softmax)
    if dry or t.rows * t.n > small_work:
        plan = choose("topk_gate_backward", t.rows, t.n, 1, t.arg[0].itemsize, 2, True, False, False, False, True, True)
        if dry:
            return plan
        threads = plan[1]
    with nogil:
        if code == FLOAT:
            run_unchoice(&t, &softmax, not renormalize, k, threads, <float*> NULL)
        else:
            run_unchoice(&t, &softmax, not renormalize, k, threads, <double*> NULL)
