# Pooling: windows over the last three of five axes.  The first two are planes apart, perhaps channels that are neighbours in memory.
#
# A unit of work is a row of outputs (or a block of it), in row-major order; threads take stretches of units.  Each row of the input is
# reduced along its own axis first and kept while other windows need it, then rows join in order: the same additions in every walk.

cdef enum:
    POOL_OPERANDS = 5
    KEPT_ROWS = 64       # reduced rows that a thread keeps
    KEPT_STATS = 256     # of soft windows, whose gradients need them more than once
    COLUMNS = 2048       # of a row of gradients that are worked on together
    BAND = 16384         # elements of a plane that gradients are gathered in
    LANDING = 1 << 18    # bytes of a plane that they are brought to in any order
    SIDE_BY_SIDE = 16    # channels of such a band
    ITEMS = 256          # gradients that are looked at together

ctypedef fused pooled:   # what maxima are taken in
    half
    bfloat16
    float
    double
    int
    long long

ctypedef fused moved:    # what is only moved
    unsigned char
    unsigned short
    unsigned int
    unsigned long long

ctypedef fused number:   # what is looked at before it is moved or added
    double
    long long
    unsigned char
    unsigned short
    unsigned int
    unsigned long long

cdef struct Planes:      # an operand, and the bytes from one element to the next
    char* data
    int code
    Py_ssize_t step[5]
    Py_ssize_t shape[5]
    Py_ssize_t itemsize

cdef struct Pool:
    int op
    bint index           # places are wanted
    bint padding         # a mean counts padding
    bint streaming
    bint across          # channels are neighbours in memory
    bint straight        # windows are read where they lie
    bint along           # or reduced one after the other
    bint direct          # whose elements are the storage's own, and neighbours
    bint apart           # windows share no element, and have no gaps but between them
    bint even            # elements of a plane are evenly spaced, in each operand
    bint lands           # and what has an index goes straight to its place
    int channel          # which of the first two axes those are
    Py_ssize_t planes
    Windows w[3]
    Planes arg[POOL_OPERANDS]

cdef inline char* plane_of(const Planes* a, Py_ssize_t plane) noexcept nogil:
    return a.data + plane // a.shape[1] * a.step[0] + plane % a.shape[1] * a.step[1]

cdef inline char* row_of(const Planes* a, char* plane, Py_ssize_t d, Py_ssize_t h) noexcept nogil:
    return plane + d * a.step[2] + h * a.step[3]

# ------------------------------------------------------------------------------------------------ rows, packed

# A thread's memory: what is packed, and rows that windows share.
cdef struct Bench:
    char* packed
    char* rows
    char* total
    char* mass
    char* moment
    double* count
    double* other
    Py_ssize_t* tags
    bint* nan

cdef enum:
    BENCH_PACKED = TAPS * (OUTPUTS + 96) * 8
    BENCH_BYTES = BENCH_PACKED + (KEPT_ROWS + 3) * PARTIAL_BYTES + PARTIAL_BYTES + KEPT_ROWS * 16 + 256

cdef void open_bench(Bench* b, char* room) noexcept nogil:
    room = <char*> ((<size_t> room + 63) // 64 * 64)
    b.packed = room
    b.rows = b.packed + BENCH_PACKED
    b.total = b.rows + KEPT_ROWS * PARTIAL_BYTES
    b.mass = b.total + PARTIAL_BYTES
    b.moment = b.mass + PARTIAL_BYTES
    b.count = <double*> (b.moment + PARTIAL_BYTES)
    b.other = b.count + PARTIAL_BYTES // 16
    b.tags = <Py_ssize_t*> (b.count + PARTIAL_BYTES // 8)
    b.nan = <bint*> (b.tags + KEPT_ROWS)

# The reduction of one row of the input along itself.
cdef void reduce_row(const Pool* t, Partial[pooled]* r, Packed[pooled]* p, const char* row, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    cdef const Windows* w = &t.w[2]
    cdef Py_ssize_t begin = taps_from(w, first, n), end = taps_to(w, first, n), tap = begin
    cdef pooled* _ = NULL
    while tap < end:
        if w.window > TAPS or p.slots == 0:
            plan_taps(_, p, w, first, n, tap)
        pack_row(_, p, w, row, t.arg[0].step[4], t.arg[0].code, t.op != POOL_MEAN)
        if t.op == POOL_MEAN:
            if pooled is half or pooled is bfloat16 or pooled is float or pooled is double:
                if tap == begin:
                    begin_sum(_, r, n)
                add_sum(_, r, p)
        else:
            if tap == begin:
                begin_max(_, r, w, p, t.index)
            add_max(_, r, w, p, t.index)
        tap += TAPS

# The rows that a row of windows reads, `row` being the first, for windows that are reduced one after the other.
cdef Stack stack_at(const Pool* t, const Planes* x, const Bench* b, const char* row) noexcept nogil:
    cdef Stack s
    s.row = row
    s.deep = s.high = 1
    s.first_place = 0
    s.step[0] = t.w[0].dilation * x.step[2]
    s.step[1] = t.w[1].dilation * x.step[3]
    s.place[0] = t.w[0].dilation * t.w[1].size * t.w[2].size
    s.place[1] = t.w[1].dilation * t.w[2].size
    s.pixel = x.step[4]
    s.code = x.code
    s.direct = t.direct
    s.bench = b.packed
    return s

cdef Stack stack_of(const Pool* t, const Bench* b, char* plane, Py_ssize_t od, Py_ssize_t oh) noexcept nogil:
    cdef Py_ssize_t kd = first_tap(&t.w[0], od), kh = first_tap(&t.w[1], oh)
    cdef Stack s = stack_at(t, &t.arg[0], b, row_of(&t.arg[0], plane, start_of(&t.w[0], od) + kd * t.w[0].dilation, start_of(&t.w[1], oh) + kh * t.w[1].dilation))
    s.deep = end_tap(&t.w[0], od) - kd
    s.high = end_tap(&t.w[1], oh) - kh
    s.first_place = kd * s.place[0] + kh * s.place[1]
    return s

# Maxima or sums of the windows of a block of outputs.
cdef Partial[pooled] reduce_windows(const Pool* t, Bench* b, Packed[pooled]* p, char* plane, Py_ssize_t od, Py_ssize_t oh, Py_ssize_t first, Py_ssize_t n, Py_ssize_t kept) noexcept nogil:
    cdef Partial[pooled] total, row
    cdef pooled* _ = NULL
    cdef Py_ssize_t kd, kh, d, h, slot, offset
    cdef bint begun = False
    cdef Stack s
    total = partial_at(_, b.total)
    if t.along:
        s = stack_of(t, b, plane, od, oh)
        if t.op != POOL_MEAN:
            max_along(_, &total, &s, &t.w[2], first, n, t.index)
        elif pooled is half or pooled is bfloat16 or pooled is float or pooled is double:
            sums_along(_, &total, &s, &t.w[2], first, n)
        return total
    for kd in range(first_tap(&t.w[0], od), end_tap(&t.w[0], od)):
        d = start_of(&t.w[0], od) + kd * t.w[0].dilation
        for kh in range(first_tap(&t.w[1], oh), end_tap(&t.w[1], oh)):
            h = start_of(&t.w[1], oh) + kh * t.w[1].dilation
            slot = kd * kept + h % kept if kept else 0
            row = partial_at(_, b.rows + slot * PARTIAL_BYTES)
            if kept and b.tags[slot] == h:
                row.nan = b.nan[slot]
            else:
                reduce_row(t, &row, p, row_of(&t.arg[0], plane, d, h), first, n)
                b.tags[slot] = h
                b.nan[slot] = row.nan
            offset = (kd * t.w[0].dilation * t.w[1].size + kh * t.w[1].dilation) * t.w[2].size
            if t.op == POOL_MEAN:
                if pooled is half or pooled is bfloat16 or pooled is float or pooled is double:
                    if not begun:
                        begin_sum(_, &total, n)
                    join_sum(_, &total, &row, n)
            else:
                join_max(_, &total, &row, n, offset, not begun, t.index)
            begun = True
    return total

# The taps, in whole packs, that some of windows first to first + n have in the row: of long ones most may lie in padding.
cdef inline Py_ssize_t taps_from(const Windows* w, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    return first_tap(w, first + n - 1) // TAPS * TAPS if w.window > TAPS else 0

cdef inline Py_ssize_t taps_to(const Windows* w, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    return end_tap(w, first) if w.window > TAPS else w.window

# How many rows of one depth are kept, for windows that overlap from row to row; 0 if none.
cdef Py_ssize_t kept_rows(const Pool* t) noexcept nogil:
    cdef Py_ssize_t reach = (t.w[1].window - 1) * t.w[1].dilation + 1
    return reach if reach > t.w[1].stride and t.w[0].window * reach <= KEPT_ROWS and t.w[1].window > 1 else 0

cdef void pool_rows(const Pool* t, Py_ssize_t unit, Py_ssize_t last, char* room, pooled* _) noexcept nogil:
    cdef const Planes* x = &t.arg[0]
    cdef const Planes* y = &t.arg[1]
    cdef Py_ssize_t blocks = (t.w[2].count + OUTPUTS - 1) // OUTPUTS, kept = 0 if t.along else kept_rows(t), counted = -1
    cdef bint others = True
    cdef Py_ssize_t plane, block, od, oh, first, n, i, rows
    cdef Packed[pooled] p
    cdef Partial[pooled] r
    cdef Bench b
    cdef char* source
    cdef char* target
    open_bench(&b, room)
    p.room = <acc[pooled]*> b.packed
    oh = unit % t.w[1].count
    od = unit // t.w[1].count % t.w[0].count
    block = unit // t.w[1].count // t.w[0].count % blocks
    plane = unit // t.w[1].count // t.w[0].count // blocks
    while unit < last:
        first = block * OUTPUTS
        n = min(OUTPUTS, t.w[2].count - first)
        source = plane_of(x, plane)
        if others:  # rows from here on
            others = False
            for i in range(KEPT_ROWS if kept else 0):
                b.tags[i] = -1
            p.slots = 0
        r = reduce_windows(t, &b, &p, source, od, oh, first, n, kept)
        target = row_of(y, plane_of(y, plane), od, oh) + first * y.step[4]
        if t.op == POOL_MEAN:
            if pooled is half or pooled is bfloat16 or pooled is float or pooled is double:
                rows = counted_taps(&t.w[0], od, t.padding) * counted_taps(&t.w[1], oh, t.padding)
                if counted != rows * blocks + block:
                    counted = rows * blocks + block
                    fill_counts(t, b.count, rows, first, n, pooled is not double)
                if put_means(_, target, y.step[4], &r, b.count, n):
                    means_again(t, source, target, od, oh, first, n)
        elif t.op == POOL_SOFT:
            if pooled is half or pooled is bfloat16 or pooled is float or pooled is double:
                soft_windows(t, &b, &p, source, od, oh, first, n, b.count, b.other, False, _)
                put_doubles(_, target, y.step[4], b.count, n)
                if pooled is double:
                    soft_again(t, source, target, od, oh, first, n)
        else:
            put_row(_, target, y.step[4], r.m, n, y.code)
            if t.index:
                put_places(_, row_of(&t.arg[2], plane_of(&t.arg[2], plane), od, oh) + first * t.arg[2].step[4], t.arg[2].step[4], &r, n,
                           (start_of(&t.w[0], od) * t.w[1].size + start_of(&t.w[1], oh)) * t.w[2].size + start_of(&t.w[2], first), t.w[2].stride)
        unit += 1
        oh += 1
        if oh == t.w[1].count:
            others = True
            oh = 0
            od += 1
            if od == t.w[0].count:
                od = 0
                block += 1
                if block == blocks:
                    block = 0
                    plane += 1

# Means of whole planes of a few rows: planes side by side.
cdef enum:
    ROWS_BESIDE = 16  # of more, these are as good side by side, and follow each other

cdef inline bint takes_planes(const Pool* t) noexcept nogil:
    return t.op == POOL_MEAN and t.planes > 1 and t.w[0].count * t.w[1].count * t.w[2].count == 1 and t.w[0].window * t.w[1].window < ROWS_BESIDE

cdef void mean_planes(const Pool* t, Py_ssize_t plane, Py_ssize_t last, char* room, storage* _) noexcept nogil:
    cdef const Planes* x = &t.arg[0]
    cdef const Planes* y = &t.arg[1]
    cdef int side = 0 if x.shape[1] == 1 else 1  # the axis along which planes lie side by side
    cdef bint even = x.step[0] == x.shape[1] * x.step[1] and y.step[0] == y.shape[1] * y.step[1]  # all of them
    cdef double counted = counted_taps(&t.w[0], 0, t.padding) * counted_taps(&t.w[1], 0, t.padding) * counted_taps(&t.w[2], 0, t.padding)
    cdef Py_ssize_t n, i
    cdef Bench b
    cdef Stack s
    cdef Partial[storage] r
    open_bench(&b, room)
    r = partial_at(_, b.total)
    for i in range(lanes(_)):
        b.count[i] = counted if storage is double else 1 / counted
    while plane < last:
        n = min(lanes(_), last - plane)
        if side and not even:
            n = min(n, x.shape[1] - plane % x.shape[1])
        s = stack_of(t, &b, plane_of(x, plane), 0, 0)
        sums_beside(_, &r, &s, &t.w[2], x.step[side], n)
        if put_means(_, plane_of(y, plane), y.step[side], &r, b.count, n):
            for i in range(plane, plane + n):
                mean_again(t, plane_of(x, i), plane_of(y, i), 0, 0, 0)
        plane += n

cdef void fill_counts(const Pool* t, double* count, double rows, Py_ssize_t first, Py_ssize_t n, bint inverse) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n + 15):
        count[j] = 1
    for j in range(n):
        count[j] = rows * counted_taps(&t.w[2], first + j, t.padding)
        if inverse:
            count[j] = 1 / count[j]

# Sums of doubles that came out infinite or NaN, in long double: their mean may be finite.
cdef void means_again(const Pool* t, char* plane, char* y, Py_ssize_t od, Py_ssize_t oh, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        mean_again(t, plane, y + j * t.arg[1].step[4], od, oh, first + j)

cdef void mean_again(const Pool* t, char* plane, char* y, Py_ssize_t od, Py_ssize_t oh, Py_ssize_t ow) noexcept nogil:
    cdef double v
    cdef long double sum = 0
    cdef Py_ssize_t kd, kh, kw
    gather(&v, y, 0, 1, DOUBLE)
    if isfinite(v):
        return
    for kd in range(first_tap(&t.w[0], od), end_tap(&t.w[0], od)):
        for kh in range(first_tap(&t.w[1], oh), end_tap(&t.w[1], oh)):
            for kw in range(first_tap(&t.w[2], ow), end_tap(&t.w[2], ow)):
                gather(&v, tap_of(t, plane, od, oh, ow, kd, kh, kw), 0, 1, t.arg[0].code)
                sum += v
    sum /= <double> counted_taps(&t.w[0], od, t.padding) * counted_taps(&t.w[1], oh, t.padding) * counted_taps(&t.w[2], ow, t.padding)
    put_double(<double*> NULL, y, <double> sum)

cdef inline char* tap_of(const Pool* t, char* plane, Py_ssize_t od, Py_ssize_t oh, Py_ssize_t ow, Py_ssize_t kd, Py_ssize_t kh, Py_ssize_t kw) noexcept nogil:
    return row_of(&t.arg[0], plane, start_of(&t.w[0], od) + kd * t.w[0].dilation, start_of(&t.w[1], oh) + kh * t.w[1].dilation) + (start_of(&t.w[2], ow) + kw * t.w[2].dilation) * t.arg[0].step[4]

# ------------------------------------------------------------------------------------------------ soft windows

# The mean and the mass of each window of a block, whose maxima are in the bench's total; with `below` the mean as it lies below the maximum.
cdef void soft_windows(const Pool* t, Bench* b, Packed[storage]* p, char* plane, Py_ssize_t od, Py_ssize_t oh, Py_ssize_t first, Py_ssize_t n, double* mean, double* total, bint below, storage* _) noexcept nogil:
    cdef Partial[storage] m = partial_at(_, b.total), mass = partial_at(_, b.mass), moment = partial_at(_, b.moment)
    cdef Py_ssize_t kd, kh, tap
    cdef Stack s
    begin_sum(_, &mass, n)
    begin_sum(_, &moment, n)
    if t.along:
        s = stack_of(t, b, plane, od, oh)
        soft_along(_, &m, &mass, &moment, &s, &t.w[2], first, n, below)
        soft_means(_, &mass, &moment, mean, total, n)
        return
    for kd in range(first_tap(&t.w[0], od), end_tap(&t.w[0], od)):
        for kh in range(first_tap(&t.w[1], oh), end_tap(&t.w[1], oh)):
            tap = taps_from(&t.w[2], first, n)
            while tap < taps_to(&t.w[2], first, n):
                if t.w[2].window > TAPS:
                    plan_taps(_, p, &t.w[2], first, n, tap)
                pack_row(_, p, &t.w[2], row_of(&t.arg[0], plane, start_of(&t.w[0], od) + kd * t.w[0].dilation, start_of(&t.w[1], oh) + kh * t.w[1].dilation), t.arg[0].step[4], t.arg[0].code, True)
                add_soft(_, &m, &mass, &moment, p, below)
                tap += TAPS
    soft_means(_, &mass, &moment, mean, total, n)

cdef void soft_again(const Pool* t, char* plane, char* y, Py_ssize_t od, Py_ssize_t oh, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    # A moment of doubles may overflow where the mean does not.
    cdef Py_ssize_t j, kd, kh, kw, i
    cdef double v, top
    cdef long double mass, moment, share
    for j in range(n):
        gather(&v, y + j * t.arg[1].step[4], 0, 1, DOUBLE)
        if isfinite(v):
            continue
        top = -INFINITY
        mass = moment = 0
        for i in range(2):
            for kd in range(first_tap(&t.w[0], od), end_tap(&t.w[0], od)):
                for kh in range(first_tap(&t.w[1], oh), end_tap(&t.w[1], oh)):
                    for kw in range(first_tap(&t.w[2], first + j), end_tap(&t.w[2], first + j)):
                        gather(&v, tap_of(t, plane, od, oh, first + j, kd, kh, kw), 0, 1, t.arg[0].code)
                        if i == 0:
                            top = v if v > top or v != v else top
                        else:
                            share = exp(v - top)
                            mass += share
                            moment += share * v if share != 0 else share
        put_double(<double*> NULL, y + j * t.arg[1].step[4], <double> (moment / mass))

# ------------------------------------------------------------------------------------------------ windows read where they lie

# Whether the elements of an operand are its own kind's, neighbours of each other along an axis. Along an axis of one any are.
cdef bint lies_straight(const Planes* a, int code, int axis) noexcept nogil:
    cdef bint even = a.code == code and (a.step[axis] == a.itemsize or a.shape[axis] == 1) and <size_t> a.data % a.itemsize == 0
    cdef int d
    for d in range(5):
        even = even and (a.step[d] % a.itemsize == 0 or a.shape[d] == 1)
    return even

# Rows of windows that lie one or two elements apart, few of them over each other.
cdef bint reads_rows(const Pool* t) noexcept nogil:
    cdef const Windows* w = &t.w[2]
    return w.dilation == 1 and w.stride <= 2 and w.window <= TAPS and t.w[0].window * t.w[1].window <= ROWS_READ and t.w[0].size * t.w[1].size * w.size < 1 << 30

cdef void read_rows(const Pool* t, char* plane, Py_ssize_t od, Py_ssize_t oh, Reading* r) noexcept nogil:
    cdef Py_ssize_t kd, kh
    r.rows = 0
    for kd in range(first_tap(&t.w[0], od), end_tap(&t.w[0], od)):
        for kh in range(first_tap(&t.w[1], oh), end_tap(&t.w[1], oh)):
            r.row[r.rows] = row_of(&t.arg[0], plane, start_of(&t.w[0], od) + kd * t.w[0].dilation, start_of(&t.w[1], oh) + kh * t.w[1].dilation)
            r.place[r.rows] = (kd * t.w[0].dilation * t.w[1].size + kh * t.w[1].dilation) * t.w[2].size
            r.rows += 1

cdef void pool_straight(const Pool* t, Py_ssize_t unit, Py_ssize_t last, char* room, storage* _) noexcept nogil:
    # The units of pool_rows.
    cdef const Planes* x = &t.arg[0]
    cdef const Planes* y = &t.arg[1]
    cdef const Planes* index = &t.arg[2]
    cdef Py_ssize_t blocks = (t.w[2].count + OUTPUTS - 1) // OUTPUTS, counted = -1
    cdef Py_ssize_t oh = unit % t.w[1].count, od = unit // t.w[1].count % t.w[0].count
    cdef Py_ssize_t block = unit // t.w[1].count // t.w[0].count % blocks, plane = unit // t.w[1].count // t.w[0].count // blocks
    cdef Py_ssize_t first, n, rows
    cdef double count[OUTPUTS + 16]
    cdef Reading r
    cdef Staged values, places
    cdef char* source = plane_of(x, plane)
    cdef char* target = plane_of(y, plane)
    cdef char* chosen = plane_of(index, plane) if t.index else NULL
    cdef char* to
    room = <char*> ((<size_t> room + 63) // 64 * 64)
    open_staged(&values, room, t.streaming)
    open_staged(&places, room + STAGED_ROOM, t.streaming)
    while unit < last:
        first = block * OUTPUTS
        n = min(OUTPUTS, t.w[2].count - first)
        read_rows(t, source, od, oh, &r)
        if t.streaming:
            ask_for_rows(&r, t.w[1].stride * t.w[2].size * x.itemsize)
        to = stage(&values, row_of(y, target, od, oh) + first * y.itemsize, n * y.itemsize)
        if t.op == POOL_MEAN:
            rows = counted_taps(&t.w[0], od, t.padding) * counted_taps(&t.w[1], oh, t.padding)
            if counted != rows * blocks + block:
                counted = rows * blocks + block
                fill_counts(t, <double*> count, rows, first, n, storage is not double)
            if mean_row(_, to, &r, &t.w[2], first, n, <double*> count):
                close_staged(&values)
                means_again(t, source, row_of(y, target, od, oh) + first * y.itemsize, od, oh, first, n)
        elif t.index:
            max_row(_, to, stage(&places, row_of(index, chosen, od, oh) + first * 8, n * 8), &r, &t.w[2], first, n,
                    (start_of(&t.w[0], od) * t.w[1].size + start_of(&t.w[1], oh)) * t.w[2].size + start_of(&t.w[2], first))
        else:
            max_row(_, to, NULL, &r, &t.w[2], first, n, 0)
        unit += 1
        oh += 1
        if oh < t.w[1].count:
            continue
        oh = 0
        od += 1
        if od < t.w[0].count:
            continue
        od = 0
        block += 1
        if block == blocks:
            block = 0
            plane += 1
            if unit < last:
                source = plane_of(x, plane)
                target = plane_of(y, plane)
                chosen = plane_of(index, plane) if t.index else NULL
    close_staged(&values)
    close_staged(&places)

# ------------------------------------------------------------------------------------------------ across channels

# Places are counted in integers as wide as floats.
cdef bint reads_across(const Pool* t) noexcept nogil:
    return t.w[0].size * t.w[1].size * t.w[2].size < 1 << 30

# Bytes that the reduction of one number takes while its row is kept.
cdef inline Py_ssize_t kept_bytes(const Pool* t, int code) noexcept nogil:
    cdef Py_ssize_t bytes = 8 if code == DOUBLE or t.op == POOL_MEAN else 4
    return 2 * bytes if t.index or (code == DOUBLE and t.op == POOL_MEAN) else bytes

cdef inline Blocks across_blocks(const Pool* t, int code) noexcept nogil:
    return blocks_of(t.w, t.arg[0].shape[t.channel], kept_bytes(t, code))

cdef void pool_across(const Pool* t, Py_ssize_t unit, Py_ssize_t last, char* room, storage* _) noexcept nogil:
    # A unit is a row of outputs, or a block of one, with all their channels.
    cdef const Planes* x = &t.arg[0]
    cdef const Planes* y = &t.arg[1]
    cdef const Planes* index = &t.arg[2]
    cdef Blocks b = across_blocks(t, code_of_storage(_))
    cdef Py_ssize_t batch, block, od, oh, kd, kh, d, h, slot, left, held, before = -1, i, c
    cdef Py_ssize_t tags[SLOTS_MOST]
    cdef int other = 1 - t.channel
    cdef Staged values, places
    cdef Pass s
    cdef char* source
    cdef char* slots
    room = <char*> ((<size_t> room + 63) // 64 * 64)
    slots = room + 2 * STAGED_ROOM
    s.channels = x.shape[t.channel]
    open_staged(&values, room, t.streaming and s.channels * 8 <= STAGED // 2)
    open_staged(&places, room + STAGED_ROOM, values.past)
    s.across = b.across
    s.pixel = x.step[4]
    s.ahead = min(t.w[2].stride, t.w[2].window) * s.pixel if t.streaming else 0
    s.y_step = y.step[4]
    s.index_step = index.step[4]
    while unit < last:
        oh = unit % t.w[1].count
        od = unit // t.w[1].count % t.w[0].count
        block = unit // t.w[1].count // t.w[0].count % b.many
        batch = unit // t.w[1].count // t.w[0].count // b.many
        if before != unit // t.w[1].count:  # other rows from here on
            before = unit // t.w[1].count
            s.nan = False
            for i in range(SLOTS_MOST):
                tags[i] = -1
        s.first = block * b.outputs
        s.outputs = min(b.outputs, t.w[2].count - s.first)
        source = x.data + batch * x.step[other]
        left = (end_tap(&t.w[0], od) - first_tap(&t.w[0], od)) * (end_tap(&t.w[1], oh) - first_tap(&t.w[1], oh))
        held = 0
        for kd in range(first_tap(&t.w[0], od), end_tap(&t.w[0], od)):
            d = start_of(&t.w[0], od) + kd * t.w[0].dilation
            for kh in range(first_tap(&t.w[1], oh), end_tap(&t.w[1], oh)):
                h = start_of(&t.w[1], oh) + kh * t.w[1].dilation
                left -= 1
                slot = kd * b.rows + h % b.rows if b.rows else 0
                s.above[held] = slots + slot * b.slot_bytes
                if left and b.rows and tags[slot] == h:
                    held += 1
                    continue
                s.x = row_of(x, source, d, h)
                s.place = (d * t.w[1].size + h) * t.w[2].size
                s.rows = 0 if b.rows and left else held
                s.keep = slots + slot * b.slot_bytes if b.rows else NULL
                s.join = slots if left and not b.rows else NULL
                s.y = <char*> NULL if left else row_of(y, y.data + batch * y.step[other], od, oh) + s.first * s.y_step
                s.index = row_of(index, index.data + batch * index.step[other], od, oh) + s.first * s.index_step if t.index else <char*> NULL
                if t.op == POOL_MEAN:
                    i = counted_taps(&t.w[0], od, t.padding) * counted_taps(&t.w[1], oh, t.padding)
                    if mean_pass(_, &s, &t.w[2], i, t.padding, &values):
                        close_staged(&values)
                        for i in range(s.outputs):
                            for c in range(s.channels):
                                mean_again(t, source + c * x.itemsize, s.y + i * s.y_step + c * y.itemsize, od, oh, s.first + i)
                else:
                    max_pass(_, &s, &t.w[2], &values, &places, t.index)
                tags[slot] = h
                held = held + 1 if b.rows else 1
        unit += 1
    close_staged(&values)
    close_staged(&places)

include "pool_backward.pxi"

# ------------------------------------------------------------------------------------------------ from Python

cdef enum PoolOp:
    MAX_POOL, AVG_POOL, SOFTMAX_POOL, MAX_POOL_BACKWARD, MAX_UNPOOL, AVG_POOL_BACKWARD, SOFTMAX_POOL_BACKWARD

cdef dict POOLS = {
    "max_pool": MAX_POOL, "avg_pool": AVG_POOL, "softmax_pool": SOFTMAX_POOL, "max_pool_backward": MAX_POOL_BACKWARD,
    "max_unpool": MAX_UNPOOL, "avg_pool_backward": AVG_POOL_BACKWARD, "softmax_pool_backward": SOFTMAX_POOL_BACKWARD,
}

cdef bint pool_units(const Pool* t, int op, int code, Py_ssize_t unit, Py_ssize_t last, char* room) noexcept nogil:
    if op == MAX_POOL and code > DOUBLE:
        if code == UINT32 or code == INT64 or code == UINT64:
            pool_rows(t, unit, last, room, <long long*> NULL)
        else:
            pool_rows(t, unit, last, room, <int*> NULL)
        return False
    if op == MAX_UNPOOL:
        if t.arg[2].itemsize == 1:
            return moved_units(t, unit, last, room, <unsigned char*> NULL)
        if t.arg[2].itemsize == 2:
            return moved_units(t, unit, last, room, <unsigned short*> NULL)
        if t.arg[2].itemsize == 4:
            return moved_units(t, unit, last, room, <unsigned int*> NULL)
        return moved_units(t, unit, last, room, <unsigned long long*> NULL)
    if code == HALF:
        return float_units(t, op, unit, last, room, <half*> NULL)
    if code == BFLOAT16:
        return float_units(t, op, unit, last, room, <bfloat16*> NULL)
    if code == FLOAT:
        return float_units(t, op, unit, last, room, <float*> NULL)
    return float_units(t, op, unit, last, room, <double*> NULL)

cdef bint float_units(const Pool* t, int op, Py_ssize_t unit, Py_ssize_t last, char* room, storage* _) noexcept nogil:
    if op < MAX_POOL_BACKWARD:
        if t.straight and t.across:
            pool_across(t, unit, last, room, _)
        elif t.straight:
            pool_straight(t, unit, last, room, _)
        elif t.along and takes_planes(t):
            mean_planes(t, unit, last, room, _)
        else:
            pool_rows(t, unit, last, room, _)
    elif t.straight:
        if t.across:
            return take_across(t, unit, last, room, _)
        spread_straight(t, unit, last, room, _)
    elif t.apart:
        spread_apart(t, unit, last, room, _)
    elif op == MAX_POOL_BACKWARD:
        if t.lands:
            return land_planes(t, unit, last, room, _)
        return scatter_bands(t, unit, last, room, _) if t.even else gradient_bands(t, unit, last, room, _)
    else:
        spread_rows(t, unit, last, room, _)
    return False

cdef bint moved_units(const Pool* t, Py_ssize_t unit, Py_ssize_t last, char* room, moved* _) noexcept nogil:
    return move_bands(t, unit, last, room, _) if t.even else moved_bands(t, unit, last, room, _)

cdef void set_planes(Planes* a, cnp.ndarray x, int code) noexcept:
    cdef int d
    a.data = <char*> cnp.PyArray_DATA(x)
    a.code = code
    a.itemsize = cnp.PyArray_ITEMSIZE(x)
    for d in range(5):
        a.step[d] = cnp.PyArray_STRIDES(x)[d]
        a.shape[d] = cnp.PyArray_DIMS(x)[d]

cdef bint channels_last(const Pool* t, int channel, int nargs) noexcept:
    # Whether neighbours along one of the first two axes are neighbours in memory, in each operand.
    cdef int i
    for i in range(nargs):
        if t.arg[i].step[channel] != t.arg[i].itemsize:
            return False
    return t.arg[0].shape[channel] > 1

# One window that takes all of two axes, neighbours in memory, takes all of one: rows are few then, and long. That changes neither places
# nor gradients nor soft maxima, but how the sums of means are taken.
cdef void join_whole_axes(Pool* t, int nargs) noexcept:
    cdef Windows* w
    cdef int i, k
    cdef bint joins
    for i in range(2):
        w = &t.w[i]
        joins = takes_all(w) and takes_all(w + 1)
        for k in range(nargs):
            joins = joins and (t.arg[k].shape[2 + i] == 1 or t.arg[k].step[2 + i] == t.arg[k].shape[3 + i] * t.arg[k].step[3 + i])
        if not joins:
            continue
        for k in range(nargs):
            if t.arg[k].shape[2 + i] == w.size and t.arg[k].shape[3 + i] == w[1].size:
                t.arg[k].shape[3 + i] *= w.size
                t.arg[k].shape[2 + i] = 1
        w[1].size *= w.size
        w[1].window = w[1].stride = w[1].size
        w.size = w.window = w.stride = 1

cdef inline bint takes_all(const Windows* w) noexcept:
    return w.count == 1 and w.window == w.size and w.dilation == 1 and w.before == 0

cdef object choose_windows = None  # planner.choose_windows

def configure_windows(planner_choose_windows):
    """Tell this module who plans the ops on windows."""
    global choose_windows
    choose_windows = planner_choose_windows

def all_inside(cnp.ndarray indices, Py_ssize_t plane):
    """Whether all indices, of a dtype and a layout that are quick to look at, are those of a plane. False says nothing."""
    cdef const char* place = <const char*> cnp.PyArray_DATA(indices)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(indices), reach = 8
    cdef int outside = 0, threads, i
    for i in range(cnp.PyArray_NDIM(indices)):
        if cnp.PyArray_STRIDES(indices)[i] < 0:
            return False
        reach += (cnp.PyArray_DIMS(indices)[i] - 1) * cnp.PyArray_STRIDES(indices)[i]
    if reach != 8 * n or code_of(indices.dtype) != INT64 or <size_t> place % 8:
        return False
    threads = choose_windows(n // 4, n, 8, False)[1]  # little is done with each
    with nogil:
        if threads == 1:
            outside = not places_inside(place, n, plane)
        else:
            for i in prange(threads, num_threads=threads, schedule="static"):
                outside += not places_inside(place + n * i // threads * 8, n * (i + 1) // threads - n * i // threads, plane)
    return not outside

def pool(str op, dtype, tuple inputs, tuple outputs, tuple axes=(), bint padding=False, bint dry=False):
    """Run a pooling op over views of five axes: two of planes, and depth, height and width. `axes` says how windows lie along the last
    three, in the order of `softcore.windows.Axis`. Returns whether an index lies outside its plane: then what was written is of no use."""
    cdef Pool t
    cdef int which = POOLS[op], code = code_of(dtype), nargs = 0, i, whole
    for a in inputs + outputs:
        set_planes(&t.arg[nargs], a, code_of(a.dtype))
        nargs += 1
    whole = nargs - 1 if which >= MAX_POOL_BACKWARD else 0  # the operand of the input's shape
    t.op = POOL_MEAN if which == AVG_POOL or which == AVG_POOL_BACKWARD else POOL_SOFT if which == SOFTMAX_POOL or which == SOFTMAX_POOL_BACKWARD else POOL_MAX
    t.index = which == MAX_POOL and nargs == 3
    t.padding = padding
    t.planes = t.arg[whole].shape[0] * t.arg[whole].shape[1]
    for i in range(len(axes)):
        t.w[i].size, t.w[i].count, t.w[i].window, t.w[i].stride, t.w[i].dilation, t.w[i].before, t.w[i].after = axes[i]
    if len(axes) and which != AVG_POOL:
        join_whole_axes(&t, nargs)
    if which == MAX_UNPOOL:
        for i in range(0, 3, 2):
            t.arg[i].code = {1: UINT8, 2: UINT16, 4: UINT32, 8: UINT64}[t.arg[i].itemsize] | (t.arg[i].code & SWAPPED)
    t.channel = 0 if channels_last(&t, 0, nargs) else 1
    t.across = channels_last(&t, t.channel, nargs)
    t.along = t.apart = False
    t.straight = code <= DOUBLE and t.op != POOL_SOFT and which != MAX_UNPOOL
    for i in range(nargs):
        t.straight = t.straight and lies_straight(&t.arg[i], INT64 if (t.index and i == 2) or (which == MAX_POOL_BACKWARD and i == 1) else code,
                                                  t.channel if t.across else 4)
    if which == MAX_POOL_BACKWARD:
        t.straight = t.straight and t.across and t.arg[0].shape[t.channel] >= NARROW  # if windows can be guessed
    elif which == AVG_POOL_BACKWARD:
        t.straight = t.straight and takes_rows(&t)
        t.apart = lie_apart(t.w)
    else:
        t.straight = t.straight and (reads_across(&t) if t.across else reads_rows(&t) and not goes_along(t.w))
    if t.op == POOL_SOFT:
        t.along = goes_along_softly(t.w, 8 if code == DOUBLE else 16)
    elif which == MAX_POOL or which == AVG_POOL:
        t.along = not t.straight and goes_along(t.w)
    i = 1 if which == SOFTMAX_POOL_BACKWARD else 0
    t.direct = (code <= DOUBLE or code == INT32 or code == INT64) and lies_straight(&t.arg[i], code, 4)
    t.across = t.across and (t.straight or which == MAX_POOL_BACKWARD or which == MAX_UNPOOL)
    t.even = (which == MAX_POOL_BACKWARD or which == MAX_UNPOOL) and scatters_evenly(&t)
    t.lands = False
    plan, elsewhere = run_pool(&t, which, code, whole, dry)
    if elsewhere and t.straight:
        t.straight = False
        plan, elsewhere = run_pool(&t, which, code, whole, dry)
    return plan if dry else bool(elsewhere)

# How many units of work there are, and the bytes that a thread needs for them.
cdef Py_ssize_t units_of(const Pool* t, int which, int code, int whole, Py_ssize_t* bytes) noexcept:
    cdef Blocks blocks
    if which < MAX_POOL_BACKWARD:
        blocks = across_blocks(t, code)
        bytes[0] = 2 * STAGED_ROOM + (slots_of(&blocks, t.w) * blocks.slot_bytes if t.across else 0) if t.straight else BENCH_BYTES
        return t.w[0].count * t.w[1].count * (t.arg[0].shape[1 - t.channel] * blocks.many if t.across else t.planes * ((t.w[2].count + OUTPUTS - 1) // OUTPUTS))
    if t.straight:
        bytes[0] = course_bytes(t)
        return t.w[0].size * t.w[1].size * (t.arg[whole].shape[1 - t.channel] if t.across else t.planes * ((t.w[2].size + SPAN - 1) // SPAN))
    if which == MAX_POOL_BACKWARD or which == MAX_UNPOOL:
        bytes[0] = band_bytes(t)
        return bands_of(t).groups * bands_of(t).bands
    bytes[0] = BENCH_BYTES + 8 * (2 * (COLUMNS + 16) + 3 * KEPT_STATS * (OUTPUTS + 16) + 2 * (OUTPUTS + 16) + KEPT_STATS)
    return t.planes * t.w[0].size * t.w[1].size * ((t.w[2].size + COLUMNS - 1) // COLUMNS)

cdef tuple run_pool(Pool* t, int which, int code, int whole, bint dry):
    # The plan, and whether a maximum is not in the window that was guessed, or where none was, not in its plane.
    cdef Py_ssize_t work = t.planes * t.arg[whole].shape[2] * t.arg[whole].shape[3] * t.arg[whole].shape[4], units, bytes
    cdef int elsewhere = 0
    cdef char* room
    cdef int threads, i
    if which == MAX_POOL_BACKWARD or which == MAX_UNPOOL:
        _, threads, t.streaming, _ = choose_windows(work, work, t.arg[whole].itemsize, t.across)
        t.lands = lands(t, threads)
        t.straight = t.straight and not t.lands and guess_windows(t)
    units = units_of(t, which, code, whole, &bytes)
    plan = choose_windows(work, units, t.arg[whole].itemsize, t.across)
    if dry:
        return plan, False
    bytes += 64
    threads = plan[1]
    t.streaming = plan[2]
    room = <char*> malloc(bytes * threads)
    if room == NULL:
        raise MemoryError()
    with nogil:
        if threads == 1:
            elsewhere = pool_units(t, which, code, 0, units, room)
        else:
            for i in prange(threads, num_threads=threads, schedule="static"):
                elsewhere += pool_units(t, which, code, units * i // threads, units * (i + 1) // threads, room + bytes * i)
        if t.streaming:
            fence()
    free(room)
    return plan, elsewhere
