# Cross-entropy: the fold of softmax, the sums of a target's probabilities, and a map.  Binary cross-entropy: element by element.
#
# Operands: logits; target, one label a row or as many probabilities as logits; then, where the call has them, at the places
# that t.loss names: class weights, dloss, the losses and the gradient.

cdef enum:
    TURNED = 128       # the longest row of a loss of which GROUPS Lanes become columns; of longer ones it is one

# ------------------------------------------------------------------------------------------------ rows of any length

cdef inline long long label_of(const Task* t, const Row* row) noexcept nogil:
    return index_at(row.at[1], t.arg[1].code)

cdef inline bint is_ignored(const Task* t, const Row* row) noexcept nogil:
    return not t.loss.soft and label_of(t, row) == t.loss.ignored

cdef inline storage element_at(const Task* t, const Row* row, int i, Py_ssize_t j, storage* _) noexcept nogil:
    cdef storage x
    cdef Py_ssize_t run = 0
    gather(&x, row.at[i] + offset_of(t, &t.arg[i], j, &run), 0, 1, t.arg[i].code)
    return x

cdef void loss_fold(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, Room* room, storage* _) noexcept nogil:
    cdef char scratch[3][FRAME_SCRATCH]
    cdef const Loss* o = t.loss
    cdef LossRow* r = <LossRow*> room
    cdef State[double] frame
    cdef storage* x
    cdef storage* target = NULL
    cdef storage* weight = NULL
    cdef double top = 0
    cdef Py_ssize_t n, met = 0  # as in softmax_fold
    r.s = empty_row()
    r.dot.high = r.dot.low = r.mass.high = r.mass.low = 0
    if is_ignored(t, row):
        return
    while j < end:
        n = min(end - j, frame_size(_))
        x = take(t, row, 0, j, n, <storage*> scratch[0], NULL, 0)
        if met == 0:
            top = top_of_tile(<const storage*> x, n)
        met = min(t.n - j - n, frame_size(_)) if t.arg[0].direct else 0
        frame = absorb_met(<const storage*> x, n, 1, &top, met)
        merge_rows(_, &r.s, &frame, 1)
        if o.soft or o.spread != 0:
            if o.soft:
                target = take(t, row, 1, j, n, <storage*> scratch[1], NULL, 0)
            if o.weight >= 0:
                weight = take(t, row, o.weight, j, n, <storage*> scratch[2], NULL, 0)
            weigh_row(<const storage*> x, <const storage*> target, <const storage*> weight, n, o, &r.dot, &r.mass)
        j += n

cdef void loss_merge(const Task* t, Room* a, const Room* b, storage* _) noexcept nogil:
    cdef LossRow* r = <LossRow*> a
    cdef const LossRow* other = <const LossRow*> b
    merge_rows(_, &r.s, &other.s, 1)
    merge_sums_of_loss(&r.dot, &other.dot)
    merge_sums_of_loss(&r.mass, &other.mass)

# The loss of a row, once all of it is folded, and what its gradient needs.
cdef void loss_finish(const Task* t, const Row* row, Room* room, storage* _) noexcept nogil:
    cdef LossRow* r = <LossRow*> room
    cdef Source from_
    cdef Mass[double] mass
    if is_ignored(t, row):
        put_loss(t, row, 0)
        return
    from_.task = t
    from_.row = row
    mass = mass_of(&from_, t.n, &r.s, 1, _)
    finish_loss(t, row, r, log_of_mass_of(_, &mass), _)

cdef void finish_loss(const Task* t, const Row* row, LossRow* r, double log, storage* _) noexcept nogil:
    cdef const Loss* o = t.loss
    cdef double weight = 1, x = 0
    if not o.soft:
        if o.weight >= 0:
            weight = as_number(element_at(t, row, o.weight, label_of(t, row), _))
        x = as_number(element_at(t, row, 0, label_of(t, row), _))
    put_loss(t, row, settle_loss(o, t.n, r, log, x, weight, factor_of(t, row, _)))

# The same from the logit and the class weight at the label, and from what the gradient is multiplied by: the loss, and what the gradient
# needs.
cdef inline double settle_loss(const Loss* o, Py_ssize_t n, LossRow* r, double log, double x, double weight, double factor) noexcept nogil:
    cdef double share = 0, lse = r.s.m + log
    if not o.soft:
        share = o.keep * weight
        r.mass.high = o.spread * o.weights
        r.mass.low = 0
    r.c = factor
    r.amount = r.c * ((0 if n == 1 else share + (r.mass.high + r.mass.low)) + (2 * o.z * lse if o.z != 0 else 0))
    r.taken = r.c * share
    return loss_of(r, log, share, x, lse, o)

# What comes in, over what a mean divides by.
cdef inline double factor_of(const Task* t, const Row* row, storage* _) noexcept nogil:
    cdef int i = t.loss.dloss
    return t.loss.factor * number_at_address(_, row.at[i], t.arg[i].code) if i >= 0 else t.loss.factor

cdef inline void put_loss(const Task* t, const Row* row, double loss) noexcept nogil:
    cdef const Loss* o = t.loss
    if o.value >= 0:
        put_number(row.at[o.value], t.arg[o.value].code, loss)
    elif o.sums:
        add_to(&o.totals[softcore_thread()], loss)

cdef void loss_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    cdef char scratch[3][FRAME_SCRATCH]
    cdef const Loss* o = t.loss
    cdef const LossRow* r = <const LossRow*> room
    cdef GradientRow[storage] g
    cdef storage* x
    cdef storage* y
    cdef storage* target = NULL
    cdef storage* weight = NULL
    cdef storage own
    cdef Py_ssize_t n, label = -1
    cdef bint ignored = is_ignored(t, row)
    if o.gradient < 0:
        return
    if not ignored:
        g = gradient_row_of(_, r, o)
        if not o.soft:
            label = label_of(t, row)
    while j < end:
        n = min(end - j, frame_size(_))
        y = open_tile(t, row, o.gradient, j, <storage*> scratch[0])
        if ignored:
            fill_tile(y, n, 0)
        elif t.n == 1:
            fill_tile(y, n, r.amount + (r.s.m - r.s.m))
        else:
            x = take(t, row, 0, j, n, <storage*> scratch[0], NULL, 0)
            if o.soft:
                target = take(t, row, 1, j, n, <storage*> scratch[1], NULL, 0)
            if o.weight >= 0 and (o.soft or o.spread != 0):
                weight = take(t, row, o.weight, j, n, <storage*> scratch[2], NULL, 0)
            if j <= label < j + n:
                own = gradient_of_label(<const storage*> x + (label - j), <const storage*> weight + (label - j) if weight != NULL else <const storage*> NULL, &g)
            loss_gradient_row(y, <const storage*> x, <const storage*> target, <const storage*> weight, n, &g, t.streaming, <const storage*> x + n if t.ahead and end - j > 2 * n else NULL)
            if j <= label < j + n:
                y[label - j] = own
        close_tile(t, row, o.gradient, j, n, y, NULL, 0)
        j += n

# ------------------------------------------------------------------------------------------------ labels without smoothing

# Whether a row counts; one that is ignored is done with.
cdef bint is_kept(const Task* t, Py_ssize_t r, storage* _) noexcept nogil:
    cdef Row row
    enter(t, r, &row)
    if not is_ignored(t, &row):
        return True
    put_loss(t, &row, 0)
    if t.loss.gradient >= 0:
        fill_tile(<storage*> row.at[t.loss.gradient], t.n, 0)
    return False

# Rows as columns: short ones are turned, as turn_in does, and those that lie side by side are copied; what each of them needs is put
# beside its lane.
cdef inline bint is_turned(const Task* t) noexcept nogil:
    return t.n <= TURNED and t.nouter <= 1 and t.arg[0].direct and (t.arg[1].direct or not t.loss.soft) and (t.loss.gradient < 0 or t.arg[t.loss.gradient].direct)

cdef inline bint is_across(const Task* t, storage* _) noexcept nogil:
    return t.nouter > 0 and t.nlength == 1 and t.n <= frame_size(_) and lies_across(t, 0, _) and (not t.loss.soft or lies_across(t, 1, _)) and (
        t.loss.gradient < 0 or lies_across(t, t.loss.gradient, _))

cdef inline bint lies_across(const Task* t, int i, storage* _) noexcept nogil:
    return t.arg[i].outer[t.nouter - 1] == sizeof(storage) and t.arg[i].code == code_of_storage(_)

# From an operand's element or row to that of the next row.
cdef inline Py_ssize_t row_step(const Task* t, int i) noexcept nogil:
    return t.arg[i].outer[t.nouter - 1] if t.nouter else 0

cdef void take_slab(const Task* t, int i, acc[storage]* slab, Py_ssize_t width, Py_ssize_t first, Py_ssize_t count, bint turned, storage* _) noexcept nogil:
    cdef const storage* x = <const storage*> row_start(t, &t.arg[i], first)
    if turned:
        to_columns(slab, width, x, row_step(t, i), t.n, count)
    else:
        take_columns(slab, width, x, stride_of(t, &t.arg[i]), t.n, count, t.ahead)

cdef bint columns_of_loss(const Task* t, Py_ssize_t first, Py_ssize_t last, storage* _) noexcept nogil:
    # False where there is no memory for it.
    cdef const Loss* o = t.loss
    cdef const Operand* gradient = &t.arg[max(0, o.gradient)]
    cdef bint turned = is_turned(t)
    cdef Py_ssize_t L = lanes(_), most = (GROUPS if t.n <= TURNED else 1) * L, bytes = most * max(t.n, 8) * sizeof(acc[storage]), count
    cdef void* memory = malloc((3 if o.soft else 2) * bytes + 8 * t.n + 64)
    cdef char* logits = <char*> ((<size_t> memory + 63) // 64 * 64)
    cdef char* exponentials = logits + bytes
    cdef char* targets = exponentials + bytes
    cdef char* weight = targets + (bytes if o.soft else 0)
    cdef storage* y
    cdef Slab slab
    if memory == NULL:
        return False
    slab.n = t.n
    slab.at[0] = logits
    slab.at[1] = targets if o.soft else <char*> NULL
    slab.at[2] = weight
    while first < last:
        count = min(most, last - first)
        if not turned:
            count = min(count, t.outer[t.nouter - 1] - first % t.outer[t.nouter - 1])
        slab.width = (count + L - 1) // L * L
        slab.stride[0] = slab.width * sizeof(acc[storage])
        take_slab(t, 0, <acc[storage]*> logits, slab.width, first, count, turned, _)
        if o.soft:
            take_slab(t, 1, <acc[storage]*> targets, slab.width, first, count, turned, _)
        if storage is double:
            finish_columns(t, &slab, exponentials, first, count, <double*> NULL, False)
        else:
            finish_columns(t, &slab, exponentials, first, count, <float*> NULL, sizeof(storage) == 2)
        if o.gradient >= 0:
            y = <storage*> row_start(t, gradient, first)
            if turned:
                from_columns(y, row_step(t, o.gradient), <const acc[storage]*> exponentials, slab.width, t.n, count)
            else:
                put_columns(y, stride_of(t, gradient), <const acc[storage]*> exponentials, slab.width, t.n, count)
        first += count
    free(memory)
    return True

# The states of a slab's columns, whose exponentials are kept if there is a gradient, and their sums beside their maxima.
cdef void fold_to_masses(const Slab* slab, char* kept, bint gradient, State[Doubles[copied]]* s, Mass[Doubles[copied]]* mass, copied* _) noexcept nogil:
    cdef Stripe[copied] b
    cdef Py_ssize_t g
    cdef int after = TO_SOFTMAX if gradient else TO_LOGSUMEXP
    open_stripe(&b, slab, kept)
    advance_columns(after, &b, <Stripe[copied]*> NULL, <Stripe[copied]*> NULL, slab.n, b.groups, 1, False)
    advance_columns(after, <Stripe[copied]*> NULL, &b, <Stripe[copied]*> NULL, slab.n, b.groups, 1, False)
    for g in range(b.groups):
        s[g] = b.s[g]
    masses_of_columns(slab, 1, s, mass, _)

# The loss of each row of a slab whose targets are spread over classes, and what makes its gradient.
cdef void settle_spread(const Task* t, Turned[accumulator]* turned, const accumulator* x, const accumulator* weight, bint labelled, Py_ssize_t width, Py_ssize_t count, const State[Doubles[accumulator]]* s, const Doubles[accumulator]* log, const Sum[Doubles[accumulator]]* dot, const Sum[Doubles[accumulator]]* shares, accumulator* _) noexcept nogil:
    cdef const Loss* o = t.loss
    cdef Py_ssize_t L = lanes(_), g, i, j, label
    cdef LossRow r
    for i in range(width):
        turned.c[i] = o.factor * turned.c[i] if o.dloss >= 0 else o.factor
        label = turned.label[i] if labelled else 0
        if i >= count or (labelled and label == o.ignored):
            turned.label[i] = -1
            turned.loss[i] = 0
            r.amount = r.c = 0
            r.taken = 0
            r.s.m = 0
            r.s.l.high = 1
            r.s.l.low = 0
        else:
            g = i // L
            j = i % L
            r.s.m = number_at(_, &s[g].m, j)
            r.s.l.high = number_at(_, &s[g].l.high, j)
            r.s.l.low = number_at(_, &s[g].l.low, j)
            r.dot.high = number_at(_, &dot[g].high, j)
            r.dot.low = number_at(_, &dot[g].low, j)
            r.mass.high = number_at(_, &shares[g].high, j)
            r.mass.low = number_at(_, &shares[g].low, j)
            turned.loss[i] = settle_loss(o, t.n, &r, number_at(_, &log[g], j), as_number(x[label * width + i]), as_number(weight[label]) if weight != NULL else 1, turned.c[i])
        if o.gradient >= 0:
            set_turned(turned, i, &r, o)

# The losses of a slab's columns; what is kept becomes their gradients.
cdef void finish_columns(const Task* t, const Slab* slab, char* kept, Py_ssize_t first, Py_ssize_t count, accumulator* _, bint halves) noexcept nogil:
    cdef State[Doubles[accumulator]] s[GROUPS]
    cdef Mass[Doubles[accumulator]] mass[GROUPS]
    cdef Sum[Doubles[accumulator]] dot[GROUPS]
    cdef Sum[Doubles[accumulator]] shares[GROUPS]
    cdef Doubles[accumulator] log[GROUPS]
    cdef Turned[accumulator] turned
    cdef accumulator* weight = NULL
    cdef const accumulator* x = <const accumulator*> slab.at[0]
    cdef const accumulator* target = <const accumulator*> slab.at[1]
    cdef accumulator* e = <accumulator*> kept
    cdef const Loss* o = t.loss
    cdef bint spread = target != NULL or o.spread != 0
    cdef Py_ssize_t L = lanes(_), n = slab.n, width = slab.width, g, i, j, label
    cdef long long* labels = turned.label
    cdef char* value = row_start(t, &t.arg[o.value], first) if o.value >= 0 else NULL
    cdef Exact* total = &o.totals[softcore_thread()] if o.sums else NULL
    if halves:
        fold_to_masses(slab, kept, o.gradient >= 0, <State[Doubles[widened]]*> s, <Mass[Doubles[widened]]*> mass, <widened*> NULL)
    else:
        fold_to_masses(slab, kept, o.gradient >= 0, s, mass, _)
    if o.weight >= 0:
        weight = <accumulator*> slab.at[2]
        gather_tile(t, &t.arg[o.weight], row_start(t, &t.arg[o.weight], first), 0, n, weight)
    if target == NULL:
        gather(labels, row_start(t, &t.arg[1], first), row_step(t, 1), count, t.arg[1].code)
    if o.dloss >= 0:
        gather(turned.c, row_start(t, &t.arg[o.dloss], first), row_step(t, o.dloss), count, t.arg[o.dloss].code)
    for g in range(width // L):
        log[g] = logs_of_masses(_, &mass[g])
        if spread:
            weigh_columns(x + g * L, target + g * L if target != NULL else <const accumulator*> NULL, <const accumulator*> weight, width, n, o, &dot[g], &shares[g])
    # The lanes of no row hold the exponentials of zeros, and are written nowhere.
    if not spread:
        take_labels(&turned, x, <const accumulator*> weight, width, count, o)
        for g in range(width // L):
            settle_labels(&turned, g * L, &s[g], &log[g], o)
    else:
        settle_spread(t, &turned, x, <const accumulator*> weight, target == NULL, width, count, s, log, dot, shares, _)
    if target == NULL:
        for i in range(width):
            if labels[i] < 0:
                turned.loss[i] = 0
    if value != NULL:
        put_losses(value, row_step(t, o.value), t.arg[o.value].code, turned.loss, count)
    elif total != NULL:
        add_losses(_, total, turned.loss, width)
    if o.gradient < 0:
        return
    share_columns(e, width, n, &turned)
    if not spread:
        less_labels(e, width, n, count, &turned)
        return
    if target == NULL:
        for i in range(count):
            label = labels[i]
            if label >= 0:
                turned.own[i] = <accumulator> (<double> e[label * width + i] - (turned.taken[i] + <double> turned.spread[i] * (as_number(weight[label]) if weight != NULL else 1)))
    less_columns(e, target, <const accumulator*> weight, width, n, &turned)
    if target == NULL:
        for i in range(count):
            if labels[i] >= 0:
                e[labels[i] * width + i] = turned.own[i]
                continue
            for j in range(n):
                e[j * width + i] = 0

# Rows of up to a frame, in blocks: see framed_rows.
cdef bint loss_rows(const Task* t, Py_ssize_t first, Py_ssize_t last, storage* _) noexcept nogil:
    cdef int after = TO_GRADIENT if t.loss.gradient >= 0 else TO_LOGSUMEXP
    if is_turned(t) or is_across(t, _):
        return columns_of_loss(t, first, last, _)
    return framed_rows(t, first, last, after, _) if t.n <= frame_size(_) else walk_rows(t, first, last, after, _)

cdef void finish_losses(const Task* t, Block[storage]* block, const Mass[Doubles[storage]]* mass, storage* _) noexcept nogil:
    cdef Doubles[storage] log = logs_of_masses(_, mass)
    cdef LossRow r
    cdef Row row
    cdef Py_ssize_t i
    r.dot.high = r.dot.low = 0
    for i in range(block.rows):
        enter(t, block.row[i], &row)
        r.s.m = number_at(_, &block.s.m, i)
        r.s.l.high = number_at(_, &block.s.l.high, i)
        r.s.l.low = number_at(_, &block.s.l.low, i)
        finish_loss(t, &row, &r, number_at(_, &log, i), _)
        if t.loss.gradient >= 0:
            block.label[i] = label_of(t, &row)
            block.share[i] = share_of(_, &r)
            block.own[i] = gradient_at_label(block, i, t.n, r.taken)

# ------------------------------------------------------------------------------------------------ binary cross-entropy

# Tiles of accumulators: an operand of the half types may be float.
cdef acc[storage]* take_accumulators(const Task* t, const Row* row, int i, Py_ssize_t j, Py_ssize_t n, void* room, storage* _) noexcept nogil:
    if storage is double:
        return <acc[storage]*> take(t, row, i, j, n, <double*> room, NULL, 0)
    elif storage is float:
        return <acc[storage]*> take(t, row, i, j, n, <float*> room, NULL, 0)
    else:
        gather_tile(t, &t.arg[i], row.at[i], j, n, <float*> room)
        return <acc[storage]*> room

cdef void close_accumulators(const Task* t, const Row* row, int i, Py_ssize_t j, Py_ssize_t n, acc[storage]* tile, storage* _) noexcept nogil:
    if storage is double:
        close_tile(t, row, i, j, n, <double*> tile, NULL, 0)
    else:
        close_tile(t, row, i, j, n, <float*> tile, NULL, 0)

# A stretch of losses, of gradients or of both; the sum of the losses is added to `total` if that is there.
cdef void binary_tiles(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, Sum[double]* total, storage* _) noexcept nogil:
    cdef char scratch[4][SCRATCH]
    cdef double wide[2][SCRATCH_DOUBLES]  # of accumulators
    cdef const Loss* o = t.loss
    cdef storage* at[4]
    cdef storage* y = NULL
    cdef acc[storage]* dloss = NULL
    cdef acc[storage]* losses = NULL
    cdef Py_ssize_t n
    while j < end:
        n = min(end - j, tile_size(_))
        at[0] = take(t, row, 0, j, n, <storage*> scratch[0], NULL, 0)
        at[1] = take(t, row, 1, j, n, <storage*> scratch[1], NULL, 0)
        at[2] = take(t, row, o.weight, j, n, <storage*> scratch[2], NULL, 0) if o.weight >= 0 else NULL
        at[3] = take(t, row, o.pos_weight, j, n, <storage*> scratch[3], NULL, 0) if o.pos_weight >= 0 else NULL
        if o.dloss >= 0:
            dloss = take_accumulators(t, row, o.dloss, j, n, wide[0], _)
        if o.value >= 0:
            losses = <acc[storage]*> (<acc[storage]*> open_tile(t, row, o.value, j, <storage*> wide[1]))
        if o.gradient >= 0:
            y = open_tile(t, row, o.gradient, j, <storage*> scratch[0])
        binary_tile(losses, y, <const storage*> at[0], <const storage*> at[1], <const storage*> at[2], <const storage*> at[3], dloss, n, o, total, t.streaming)
        if o.value >= 0:
            close_accumulators(t, row, o.value, j, n, losses, _)
        if o.gradient >= 0:
            close_tile(t, row, o.gradient, j, n, y, NULL, 0)
        j += n

cdef void binary_fold(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, Room* room, storage* _) noexcept nogil:
    cdef Sum[double]* s = <Sum[double]*> room
    s.high = s.low = 0
    binary_tiles(t, row, j, end, s, _)

cdef void binary_merge(const Task* t, Room* a, const Room* b, storage* _) noexcept nogil:
    merge_sums_of_loss(<Sum[double]*> a, <const Sum[double]*> b)

cdef void binary_total(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    cdef const Sum[double]* s = <const Sum[double]*> room
    add_to(&t.loss.totals[0], s.high + (s.low if s.low == s.low else 0))  # beside an infinite sum the rest is nan

cdef void binary_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    binary_tiles(t, row, j, end, NULL, _)

# ------------------------------------------------------------------------------------------------ the family

cdef void loss_kernels(const Task* t, int op, Kernel* k, storage* _) noexcept nogil:
    k.known = True
    k.chunk = chunk_size(_)
    k.lanes = lanes(_)
    if op == CROSS_ENTROPY:
        k.fold = <Fold> loss_fold[storage]
        k.merge = <Merge> loss_merge[storage]
        k.finish = <Finish> loss_finish[storage]
        k.map = <Map> loss_map[storage]
        k.reduces = t.loss.gradient < 0
        if t.n > 1 and (is_turned(t) or is_across(t, _) or (
                t.arg[0].direct and (k.reduces or t.arg[t.loss.gradient].direct) and not t.loss.soft and t.loss.spread == 0)):
            k.rows = <Rows> loss_rows[storage]
            k.longest = most_kept(_)
    elif not t.loss.sums:
        k.map = <Map> binary_map[storage]
    else:
        k.fold = <Fold> binary_fold[storage]
        k.merge = <Merge> binary_merge[storage]
        k.map = <Map> binary_total[storage]
        k.reduces = True

# A sum for each thread, and theirs.
cdef int open_totals(Task* t, int threads) except -1:
    cdef int i
    if t.loss == NULL or not t.loss.sums:
        return 0
    t.loss.totals = <Exact*> malloc(threads * sizeof(Exact))
    if t.loss.totals == NULL:
        raise MemoryError()
    for i in range(threads):
        empty_exact(&t.loss.totals[i])
    return 0

cdef void close_totals(Task* t, int threads) noexcept nogil:
    cdef int i
    if t.loss == NULL or not t.loss.sums:
        return
    for i in range(1, threads):
        merge_exact(&t.loss.totals[0], &t.loss.totals[i])
    t.loss.total = value_of(&t.loss.totals[0])
    free(t.loss.totals)

cdef int operand_of(Task* t, object a, int nouter) except -2:
    # The place of an operand, or -1 of one that the call lacks.
    if a is None:
        return -1
    set_operand(t, &t.arg[t.nargs], a, code_of(a.dtype), nouter)
    t.nargs += 1
    return t.nargs - 1

def run_loss(str op, dtype, tuple inputs, tuple outputs, int nouter, bint sums, double keep, double spread, double z, double weights, double factor, long long ignored, bint dry=False):
    """Run a loss over arranged views: logits, target, weight, pos_weight, dloss; losses, gradient; None where a call has none.

    Where the losses are summed (``sums``) they are no output and their sum is returned.
    """
    cdef Task t
    cdef Loss loss
    cdef int code = code_of(dtype), which = NAMES[op], d, place
    cdef cnp.ndarray x = inputs[0]
    begin_task(&t)
    t.loss = &loss
    t.nouter = nouter
    t.nlength = cnp.PyArray_NDIM(x) - nouter
    for d in range(nouter):
        t.outer[d] = cnp.PyArray_DIMS(x)[d]
    for d in range(t.nlength):
        t.length[d] = cnp.PyArray_DIMS(x)[nouter + d]
    operand_of(&t, x, nouter)
    operand_of(&t, inputs[1], nouter)
    loss.weight = operand_of(&t, inputs[2], nouter)
    loss.pos_weight = operand_of(&t, inputs[3], nouter)
    loss.dloss = operand_of(&t, inputs[4], nouter)
    t.ninputs = t.nargs
    loss.value = operand_of(&t, outputs[0], nouter)
    loss.gradient = operand_of(&t, outputs[1], nouter)
    loss.soft = t.arg[1].code & ~SWAPPED <= DOUBLE
    loss.keep = keep
    loss.spread = spread
    loss.z = z
    loss.weights = weights
    loss.factor = factor
    loss.ignored = ignored
    loss.sums = sums
    loss.totals = NULL
    loss.total = 0
    settle(&t, which == BINARY_CROSS_ENTROPY and not sums, code)
    plan = execute(&t, which, code, op, dry)
    return plan if dry else loss.total

def scan_targets_of(cnp.ndarray target, Py_ssize_t classes, long long ignored, cnp.ndarray weight=None):
    """``(where, kept, weight)``: the flat place of a label out of range, or -1; how many are not ignored; the sum of their weights."""
    cdef Task t
    cdef Operand* a = &t.arg[0]
    cdef Targets found
    cdef int d, nd = cnp.PyArray_NDIM(target), code = code_of(target.dtype), weight_code = 0
    cdef Py_ssize_t n = 1, step = 0, r, rows, weight_step = 0
    cdef const char* weights = NULL
    found.bad = -1
    found.kept = 0
    empty_exact(&found.weight)
    t.nlength = 0
    t.nouter = max(nd - 1, 0)
    set_operand(&t, a, target, code, t.nouter)
    for d in range(t.nouter):
        t.outer[d] = cnp.PyArray_DIMS(target)[d]
    if nd:
        n = cnp.PyArray_DIMS(target)[nd - 1]
        step = cnp.PyArray_STRIDES(target)[nd - 1]
    rows = cnp.PyArray_SIZE(target) // n if n else 0
    if weight is not None:
        weights = <const char*> cnp.PyArray_DATA(weight)
        weight_step = cnp.PyArray_STRIDES(weight)[0]
        weight_code = code_of(weight.dtype)
    with nogil:
        for r in range(rows):
            scan_targets(&found, r * n, row_start(&t, a, r), step, n, code, classes, ignored, weights, weight_step, weight_code)
            if found.bad >= 0:
                break
    return found.bad, found.kept, value_of(&found.weight) if weight is not None else <double> found.kept

def exact_sum(cnp.ndarray x):
    """The sum of a vector, rounded once."""
    cdef Exact total
    cdef Py_ssize_t i
    cdef double one
    cdef int code = code_of(x.dtype)
    empty_exact(&total)
    for i in range(cnp.PyArray_DIMS(x)[0]):
        gather(&one, <const char*> cnp.PyArray_DATA(x) + i * cnp.PyArray_STRIDES(x)[0], 0, 1, code)
        add_to(&total, one)
    return value_of(&total)
