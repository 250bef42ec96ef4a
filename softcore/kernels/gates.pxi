# Gates and gated linear units, and every backward whose operands may have been broadcast.

cdef void sweep_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    # t.option: the op; t.variant: the activation, or a bit for each result that is wanted, 0 being all of them.
    cdef char scratch[4][SCRATCH]
    cdef storage* x[4]
    cdef storage* y[RESULTS]
    cdef int place[RESULTS]  # of the outputs among the results
    cdef int wanted = t.variant if t.option == MAXIMUM_BACKWARD or t.option == GATE_BACKWARD else 0
    cdef int i = 0, which = 0
    cdef Py_ssize_t n
    while i < t.nargs - t.ninputs:
        if not wanted or wanted >> which & 1:
            place[i] = which
            i += 1
        which += 1
    while j < end:
        n = at_once(t, end - j, tile_size(_))
        for i in range(t.ninputs):
            x[i] = take(t, row, i, j, n, <storage*> scratch[i], NULL, 0)
        for i in range(RESULTS):
            y[i] = NULL
        for i in range(t.nargs - t.ninputs):
            y[place[i]] = open_tile(t, row, t.ninputs + i, j, <storage*> scratch[i])
        sweep_tile(t.option, t.variant, y, <const storage* const*> x, n, t.streaming)
        for i in range(t.nargs - t.ninputs):
            close_tile(t, row, t.ninputs + i, j, n, y[place[i]], NULL, 0)
        j += n

cdef void gradient_sum_fold(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, Room* room, storage* _) noexcept nogil:
    # The gradient of one operand, summed over the axes it was broadcast along.
    cdef char scratch[4][SCRATCH]
    cdef Sum[double]* s = <Sum[double]*> room
    cdef storage* x[4]
    cdef Py_ssize_t n
    cdef int i
    s.high = s.low = 0
    while j < end:
        n = min(end - j, tile_size(_))
        for i in range(t.ninputs):
            x[i] = take(t, row, i, j, n, <storage*> scratch[i], NULL, 0)
        add_row(_, s, sum_gradient(t.option + t.variant, <const storage* const*> x, n))
        j += n

cdef void gradient_sum_merge(const Task* t, Room* a, const Room* b, storage* _) noexcept nogil:
    merge_sums(_, <Sum[double]*> a, <const Sum[double]*> b)

cdef void gradient_sum_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    put_double(_, row.at[t.nargs - 1], total_of_sum(_, <const Sum[double]*> room))

cdef void gradient_sum_columns(const Task* t, const Slab* slab, storage* _) noexcept nogil:
    cdef bint wide[4]
    cdef int i
    for i in range(t.ninputs):
        wide[i] = t.arg[i].outer[t.nouter - 1] != 0
    sum_gradient_columns(t.option + t.variant, <storage*> slab.at[t.nargs - 1], <const char* const*> slab.at, slab.stride, wide, slab.n, slab.width)
