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

# Rows that lie side by side make slabs of columns, `wide` of them or less: the first is cut where the last output reaches a
# cache line, so that the others neither read nor write a line twice.
cdef Py_ssize_t first_slab(const Task* t, const Kernel* k, Py_ssize_t wide) noexcept nogil:
    cdef const Operand* y = &t.arg[t.nargs - 1]
    cdef size_t past = <size_t> y.data % 64
    return wide if k.reduces or past == 0 or past % y.itemsize else (64 - past) // y.itemsize

cdef Py_ssize_t count_slabs(const Task* t, const Kernel* k, Py_ssize_t wide) noexcept nogil:
    cdef Py_ssize_t inner = t.outer[t.nouter - 1], head = min(inner, first_slab(t, k, wide))
    return 1 + (inner - head + wide - 1) // wide

cdef void slabs(const Task* t, const Kernel* k, Py_ssize_t wide, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    cdef Py_ssize_t inner = t.outer[t.nouter - 1], blocks = count_slabs(t, k, wide), head = first_slab(t, k, wide), r, start
    cdef Slab slab
    cdef int i
    cdef void* kept = NULL
    slab.n = t.n
    slab.kept = NULL
    if k.keeps:  # without room for it a slab is read again
        kept = malloc(t.n * wide * 64 // k.lanes + 64)
        if kept != NULL:
            slab.kept = <char*> ((<size_t> kept + 63) // 64 * 64)
    for i in range(t.nargs):
        slab.stride[i] = stride_of(t, &t.arg[i])
    while first < last:
        start = head + (first % blocks - 1) * wide if first % blocks else 0
        slab.width = min(wide if first % blocks else head, inner - start)
        r = first // blocks * inner + start
        for i in range(t.nargs):
            slab.at[i] = row_start(t, &t.arg[i], r)
        slab.next = row_start(t, &t.arg[0], r + slab.width) if t.ahead and first + 1 < last else NULL
        k.columns(t, &slab, NULL)
        first += 1
    free(kept)

cdef void run_columns(const Task* t, const Kernel* k, int threads, Py_ssize_t wide) noexcept nogil:
    cdef Py_ssize_t units = t.rows // t.outer[t.nouter - 1] * count_slabs(t, k, wide)
    cdef int i
    if threads == 1:
        slabs(t, k, wide, 0, units)
        return
    for i in prange(threads, num_threads=threads, schedule="static"):
        slabs(t, k, wide, units * i // threads, units * (i + 1) // threads)

cdef void short_rows(const Task* t, const Kernel* k, Py_ssize_t first, Py_ssize_t last, storage* _) noexcept nogil:
    # A block of rows becomes a slab of the accumulator's type, is worked on as columns, and goes back.
    cdef char room[4][GROUPS * SHORT * 64 + 64]
    cdef long long index[GROUPS * 16]
    cdef Slab slab
    cdef Py_ssize_t L = lanes(_), r, count, i
    cdef int a
    slab.n = t.n
    slab.kept = room[0]  # it may be written over, and is a slab of accumulators already
    slab.next = NULL
    while first < last:
        r = first * GROUPS * L
        count = min(GROUPS * L, t.rows - r)
        slab.width = (count + L - 1) // L * L
        for a in range(t.nargs):
            slab.at[a] = room[a]
            slab.stride[a] = slab.width // L * 64
            if t.ahead and (a < t.ninputs or not k.reduces):  # of the next block, whose rows no hardware sees coming
                prefetch_bytes(t.arg[a].data + (r + count) * t.arg[a].outer[0], count * t.n * sizeof(storage))
            if a < t.ninputs:
                to_columns(<acc[storage]*> room[a], slab.width, <const storage*> (t.arg[a].data + r * t.arg[a].outer[0]), t.arg[a].outer[0], t.n, count)
        if t.arg[t.nargs - 1].code == INT64:
            slab.at[t.nargs - 1] = <char*> index
        k.columns(t, &slab, NULL)
        for a in range(t.ninputs, t.nargs):
            if slab.at[a] == <char*> index:
                for i in range(count):
                    put_index(t.arg[a].data + (r + i) * t.arg[a].outer[0], index[i])
            else:
                from_columns(<storage*> (t.arg[a].data + r * t.arg[a].outer[0]), t.arg[a].outer[0], <const acc[storage]*> room[a], slab.width, 1 if k.reduces else t.n, count)
        first += 1

cdef void run_short(const Task* t, const Kernel* k, int threads, storage* _) noexcept nogil:
    cdef Py_ssize_t block = GROUPS * lanes(_), blocks = (t.rows + block - 1) // block
    cdef int i
    if threads == 1:
        short_rows(t, k, 0, blocks, _)
        return
    for i in prange(threads, num_threads=threads, schedule="static"):
        short_rows(t, k, blocks * i // threads, blocks * (i + 1) // threads, _)
