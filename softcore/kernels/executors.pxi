# Executors: how the rows of a task are handed to a kernel and to threads.  planner.py chooses among them.

# Whether an operand has one element for each row, as it is wanted.
cdef inline bint one_a_row(const Task* t, int i) noexcept nogil:
    return i < t.ninputs and t.nlength == 1 and t.arg[i].length[0] == 0 and t.arg[i].code == t.arg[t.nargs - 1].code

# Short rows of an element-wise op are packed into tiles, so that few of them do not cost a call each.
cdef inline bint packs(const Task* t, const Kernel* k) noexcept nogil:
    cdef int i
    if not k.packs or t.rows == 1 or 2 * t.n * t.arg[t.nargs - 1].itemsize > SCRATCH or t.loss != NULL or t.masked:
        return False
    for i in range(t.nargs):
        if not t.arg[i].direct and not one_a_row(t, i):
            return False
    return True

# Whether all rows have the same elements of an operand.
cdef inline bint all_alike(const Task* t, const Operand* a) noexcept nogil:
    cdef int d
    for d in range(t.nouter):
        if a.outer[d] != 0:
            return False
    return True

cdef void packed_rows(const Task* t, const Kernel* k, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    cdef char room[OPERANDS][SCRATCH]
    cdef Py_ssize_t bytes = t.n * t.arg[t.nargs - 1].itemsize, count, step
    cdef bint follow[OPERANDS]  # whether rows do follow each other
    cdef bint alike[OPERANDS]
    cdef Py_ssize_t kept[OPERANDS]  # rows that are in the room and stay right
    cdef Task packed
    cdef Row row
    cdef int i
    begin_task(&packed)
    packed.nargs = t.nargs
    packed.ninputs = t.ninputs
    packed.option = t.option
    packed.variant = t.variant
    packed.streaming = t.streaming
    for i in range(t.nargs):
        packed.arg[i].direct = True
        follow[i] = t.arg[i].direct and t.nouter == 1 and t.arg[i].outer[0] == bytes
        alike[i] = i < t.ninputs and all_alike(t, &t.arg[i])
        kept[i] = 0
        packed.streaming = packed.streaming and (follow[i] or i < t.ninputs)
    while first < last:
        count = min(last - first, SCRATCH // bytes)
        if t.nouter > 1:  # as far as rows are evenly spaced
            count = min(count, t.outer[t.nouter - 1] - first % t.outer[t.nouter - 1])
        for i in range(t.nargs):
            row.at[i] = row_start(t, &t.arg[i], first) if follow[i] else room[i]
            if i < t.ninputs and not follow[i] and kept[i] < count:
                step = t.arg[i].outer[t.nouter - 1]
                if t.arg[i].direct:
                    copy_rows(room[i], bytes, row_start(t, &t.arg[i], first), step, bytes, count)
                else:
                    repeat_elements(room[i], row_start(t, &t.arg[i], first), step, t.arg[i].itemsize, t.n, count)
                if alike[i]:
                    kept[i] = count
        k.map(&packed, &row, 0, count * t.n, NULL, NULL)
        for i in range(t.ninputs, t.nargs):
            if not follow[i]:
                copy_rows(row_start(t, &t.arg[i], first), t.arg[i].outer[t.nouter - 1], room[i], bytes, bytes, count)
        first += count

cdef void whole_rows(const Task* t, const Kernel* k, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    cdef Row row
    cdef Room room, chunk
    cdef Py_ssize_t r, j
    if k.rows != NULL and t.n <= k.longest and k.rows(t, first, last, NULL):
        return
    if packs(t, k):
        packed_rows(t, k, first, last)
        return
    for r in range(first, last):
        enter(t, r, &row)
        if k.fold != NULL:
            k.fold(t, &row, 0, min(t.n, k.chunk), &room, NULL)
            j = k.chunk
            while j < t.n:
                k.fold(t, &row, j, min(t.n, j + k.chunk), &chunk, NULL)
                k.merge(t, &room, &chunk, NULL)
                j += k.chunk
        if k.finish != NULL:
            k.finish(t, &row, &room, NULL)
        k.map(t, &row, 0, t.n, &room, NULL)

cdef void run_rows(const Task* t, const Kernel* k, int threads) noexcept nogil:
    cdef int i
    if threads == 1:
        whole_rows(t, k, 0, t.rows)
        return
    for i in prange(threads, num_threads=threads, schedule="static"):
        whole_rows(t, k, t.rows * i // threads, t.rows * (i + 1) // threads)

cdef void fold_chunks(const Task* t, const Kernel* k, const Row* row, Room* rooms, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(first, last):
        k.fold(t, row, i * k.chunk, min(t.n, (i + 1) * k.chunk), &rooms[i], NULL)

cdef void run_split(const Task* t, const Kernel* k, int threads, Room* rooms) noexcept nogil:
    # One row at a time, its chunks over the threads; the states meet in the order of the chunks.
    cdef Py_ssize_t r, chunks = (t.n + k.chunk - 1) // k.chunk, c
    cdef Row row
    cdef int i
    for r in range(t.rows):
        enter(t, r, &row)
        for i in prange(threads, num_threads=threads, schedule="static"):
            fold_chunks(t, k, &row, rooms, chunks * i // threads, chunks * (i + 1) // threads)
        for c in range(1, chunks):
            k.merge(t, &rooms[0], &rooms[c], NULL)
        if k.finish != NULL:
            k.finish(t, &row, &rooms[0], NULL)
        if k.reduces:
            k.map(t, &row, 0, t.n, rooms, NULL)
            continue
        for i in prange(threads, num_threads=threads, schedule="static"):
            k.map(t, &row, min(t.n, chunks * i // threads * k.chunk), min(t.n, chunks * (i + 1) // threads * k.chunk), rooms, NULL)

cdef void map_units(const Task* t, const Kernel* k, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    # Unit u is a chunk of a row; consecutive chunks of one row are mapped together.
    cdef Py_ssize_t chunks = (t.n + k.chunk - 1) // k.chunk, r, c, upto
    cdef Row row
    if packs(t, k):
        packed_rows(t, k, first, last)
        return
    while first < last:
        r = first // chunks
        c = first % chunks
        upto = min(chunks, c + last - first)
        enter(t, r, &row)
        k.map(t, &row, c * k.chunk, min(t.n, upto * k.chunk), NULL, NULL)
        first += upto - c

cdef void run_map(const Task* t, const Kernel* k, int threads) noexcept nogil:
    cdef Py_ssize_t units = t.rows * ((t.n + k.chunk - 1) // k.chunk)
    cdef int i
    if threads == 1:
        map_units(t, k, 0, units)
        return
    for i in prange(threads, num_threads=threads, schedule="static"):
        map_units(t, k, units * i // threads, units * (i + 1) // threads)

# Rows that lie side by side make slabs of columns, `wide` of them or less: the first is cut where the last output, or where that has
# one element a row the first input, reaches a cache line, so that the others neither read nor write a line twice.
cdef Py_ssize_t first_slab(const Task* t, const Kernel* k, Py_ssize_t wide) noexcept nogil:
    cdef const Operand* y = &t.arg[0 if k.reduces else t.nargs - 1]
    cdef size_t past = <size_t> y.data % 64
    return wide if past == 0 or past % y.itemsize else (64 - past) // y.itemsize

cdef Py_ssize_t count_slabs(const Task* t, const Kernel* k, Py_ssize_t wide) noexcept nogil:
    cdef Py_ssize_t inner = t.outer[t.nouter - 1], head = min(inner, first_slab(t, k, wide))
    return 1 + (inner - head + wide - 1) // wide

cdef void enter_columns(const Slabs* s, Slab* slab, void* _) noexcept nogil:
    cdef const Task* t = s.task
    cdef Py_ssize_t inner = t.outer[t.nouter - 1], blocks = count_slabs(t, s.kernel, s.wide), head = first_slab(t, s.kernel, s.wide), b = slab.unit % blocks
    cdef Py_ssize_t start = head + (b - 1) * s.wide if b else 0
    cdef int i
    slab.n = t.n
    slab.width = min(s.wide if b else head, inner - start)
    for i in range(t.nargs):
        slab.stride[i] = stride_of(t, &t.arg[i])
        slab.at[i] = row_start(t, &t.arg[i], slab.unit // blocks * inner + start)

# Short rows: a block of them becomes a slab of the accumulator's type, is worked on as columns, and goes back.  Where three slabs are
# on their way, each has a room that it is kept and written in.
cdef enum:
    TURNED_OPERANDS = 4
    TURNED_BYTES = GROUPS * SHORT * 64 + 64  # of one; its lines are not those of the next in the first cache

cdef inline Py_ssize_t rows_turned(const Slabs* s, const Slab* slab) noexcept nogil:
    return min(s.wide, s.task.rows - slab.unit * s.wide)

cdef void turn_in(const Slabs* s, Slab* slab, storage* _) noexcept nogil:
    cdef const Task* t = s.task
    cdef Py_ssize_t L = lanes(_), r = slab.unit * s.wide, count = rows_turned(s, slab)
    cdef int a, place
    slab.n = t.n
    slab.width = (count + L - 1) // L * L
    for a in range(t.nargs):
        place = a if s.kernel.slabs == NULL else slab.unit % 3 if a == 0 or not s.kernel.reduces else 3
        slab.at[a] = s.room + place * TURNED_BYTES
        slab.stride[a] = s.wide // L * 64
        if t.ahead and (a < t.ninputs or not s.kernel.reduces):  # of the next block, whose rows no hardware sees coming
            prefetch_bytes(t.arg[a].data + (r + count) * t.arg[a].outer[0], count * t.n * sizeof(storage))
        if a < t.ninputs and one_a_row(t, a):
            slab.stride[a] = 0
            to_columns(<acc[storage]*> slab.at[a], slab.width, <const storage*> (t.arg[a].data + r * t.arg[a].outer[0]), t.arg[a].outer[0], 1, count)
        elif a < t.ninputs:
            to_columns(<acc[storage]*> slab.at[a], s.wide, <const storage*> (t.arg[a].data + r * t.arg[a].outer[0]), t.arg[a].outer[0], t.n, count)

cdef void turn_out(const Slabs* s, Slab* slab, storage* _) noexcept nogil:
    cdef const Task* t = s.task
    cdef Py_ssize_t r = slab.unit * s.wide, count = rows_turned(s, slab), i
    cdef int a
    for a in range(t.ninputs, t.nargs):
        if t.arg[a].code == INT64:
            for i in range(count):
                put_index(t.arg[a].data + (r + i) * t.arg[a].outer[0], (<long long*> slab.at[a])[i])
        else:
            from_columns(<storage*> (t.arg[a].data + r * t.arg[a].outer[0]), t.arg[a].outer[0], <const acc[storage]*> slab.at[a], s.wide, 1 if s.kernel.reduces else t.n, count)

cdef void some_slabs(const Slabs* all, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    cdef char room[TURNED_OPERANDS * TURNED_BYTES + 64]
    cdef Slabs s = all[0]
    cdef Slab slab
    s.first = first
    s.last = last
    s.room = <char*> ((<size_t> &room[0] + 63) // 64 * 64)
    if s.kernel.slabs != NULL and s.kernel.slabs(&s, NULL):
        return
    for slab.unit in range(first, last):
        s.enter(&s, &slab, NULL)
        s.kernel.columns(s.task, &slab, NULL)
        if s.leave != NULL:
            s.leave(&s, &slab, NULL)

cdef void run_slabs(const Slabs* s, int threads) noexcept nogil:
    cdef int i
    if threads == 1:
        some_slabs(s, s.first, s.last)
        return
    for i in prange(threads, num_threads=threads, schedule="static"):
        some_slabs(s, s.last * i // threads, s.last * (i + 1) // threads)

cdef void run_columns(const Task* t, const Kernel* k, int threads) noexcept nogil:
    cdef Slabs s
    s.task = t
    s.kernel = k
    # As many as lie well together and leave a slab for every thread, and no more than is kept of them.
    s.wide = k.lanes * (GROUPS if k.slabs != NULL else max(GROUPS, min(k.widest, (t.rows - 1) // (k.lanes * threads) + 1)))
    s.first = 0
    s.last = t.rows // t.outer[t.nouter - 1] * count_slabs(t, k, s.wide)
    s.enter = enter_columns
    s.leave = NULL
    run_slabs(&s, threads)

cdef void run_short(const Task* t, const Kernel* k, int threads, storage* _) noexcept nogil:
    cdef Slabs s
    s.task = t
    s.kernel = k
    s.wide = GROUPS * lanes(_)
    s.first = 0
    s.last = (t.rows + s.wide - 1) // s.wide
    s.enter = <Turn> turn_in[storage]
    s.leave = <Turn> turn_out[storage]
    run_slabs(&s, threads)
