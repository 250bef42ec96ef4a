# Element-wise ops: the last dimension is the row, and a stretch of it needs nothing but itself.

cdef void choose_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, element* _) noexcept nogil:
    # relu, its backward and maximum: they keep integers.
    cdef char scratch[2][SCRATCH]
    cdef element* at[2]
    cdef element* y
    cdef Py_ssize_t n
    cdef int i
    while j < end:
        n = at_once(t, end - j, tile_size(_))
        at[0] = at[1] = NULL
        for i in range(t.ninputs):
            at[i] = take(t, row, i, j, n, <element*> scratch[i], NULL, 0)
        y = open_tile(t, row, t.ninputs, j, <element*> scratch[0])
        choose_tile(t.option, y, <const element*> at[0], <const element*> at[1], n, t.streaming)
        close_tile(t, row, t.ninputs, j, n, y, NULL, 0)
        j += n

cdef void elementwise_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    cdef char scratch[2][SCRATCH]
    cdef storage* at[2]
    cdef storage* y
    cdef Py_ssize_t n
    cdef int i
    while j < end:
        n = at_once(t, end - j, tile_size(_))
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
        n = at_once(t, end - j, tile_size(_))
        y = open_tile(t, row, 1, j, <storage*> scratch)
        exp_tile(y, <const storage*> take(t, row, 0, j, n, <storage*> scratch, NULL, 0), n)
        close_tile(t, row, 1, j, n, y, NULL, 0)
        j += n
