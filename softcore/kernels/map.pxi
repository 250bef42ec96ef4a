# Element-wise ops: the last dimension is the row, and a stretch of it needs nothing but itself.

cdef void choose_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, element* _) noexcept nogil:
    # relu, maximum and their backwards: they keep integers.
    cdef char scratch[4][SCRATCH]
    cdef element* at[3]
    cdef element* y
    cdef Py_ssize_t n
    cdef int i
    while j < end:
        n = min(end - j, tile_size(_))
        at[0] = at[1] = at[2] = NULL
        for i in range(t.ninputs):
            at[i] = take(t, row, i, j, n, <element*> scratch[i], NULL, 0)
        if t.nargs - t.ninputs == 2:  # maximum_backward: db first, in scratch, because da may be written over dy
            choose_tile(t.option, <element*> scratch[3], <const element*> at[0], <const element*> at[2], <const element*> at[1], n, False)
        y = open_tile(t, row, t.ninputs, j, <element*> scratch[0])
        choose_tile(t.option, y, <const element*> at[0], <const element*> at[1], <const element*> at[2], n, t.streaming)
        close_tile(t, row, t.ninputs, j, n, y, NULL, 0)
        if t.nargs - t.ninputs == 2:
            y = open_tile(t, row, t.ninputs + 1, j, <element*> scratch[3])
            if y != <element*> scratch[3]:
                copy_tile(y, <const element*> scratch[3], n)
            close_tile(t, row, t.ninputs + 1, j, n, y, NULL, 0)
        j += n

cdef void elementwise_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    cdef char scratch[2][SCRATCH]
    cdef storage* at[2]
    cdef storage* y
    cdef Py_ssize_t n
    cdef int i
    while j < end:
        n = min(end - j, tile_size(_))
        at[0] = at[1] = NULL
        for i in range(t.ninputs):
            at[i] = take(t, row, i, j, n, <storage*> scratch[i], NULL, 0)
        y = open_tile(t, row, t.ninputs, j, <storage*> scratch[0])
        map_tile(t.option, y, <const storage*> at[0], <const storage*> at[1], n, t.streaming)
        close_tile(t, row, t.ninputs, j, n, y, NULL, 0)
        j += n

cdef void exp_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    cdef char scratch[SCRATCH]
    cdef storage* y
    cdef Py_ssize_t n
    while j < end:
        n = min(end - j, tile_size(_))
        y = open_tile(t, row, 1, j, <storage*> scratch)
        exp_tile(y, <const storage*> take(t, row, 0, j, n, <storage*> scratch, NULL, 0), n)
        close_tile(t, row, 1, j, n, y, NULL, 0)
        j += n

cdef void maximum_sum_fold(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, Room* room, storage* _) noexcept nogil:
    # The part of dy that goes to a, summed over the axes a was broadcast along.
    cdef char scratch[3][SCRATCH]
    cdef Sum[double]* s = <Sum[double]*> room
    cdef storage* at[3]
    cdef Py_ssize_t n, i
    s.high = s.low = 0
    while j < end:
        n = min(end - j, tile_size(_))
        for i in range(3):
            at[i] = take(t, row, <int> i, j, n, <storage*> scratch[i], NULL, 0)
        choose_tile(MAXIMUM_GRADIENT, <storage*> scratch[0], <const storage*> at[0], <const storage*> at[1], <const storage*> at[2], n, False)
        add_row(_, s, sum_row(<const storage*> scratch[0], n))
        j += n

cdef void maximum_sum_merge(const Task* t, Room* a, const Room* b, storage* _) noexcept nogil:
    merge_sums(_, <Sum[double]*> a, <const Sum[double]*> b)

cdef void sum_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    put_double(_, row.at[t.nargs - 1], total_of_sum(_, <const Sum[double]*> room))
