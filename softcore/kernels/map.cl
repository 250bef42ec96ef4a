// map.cl: what happens to one element alone.

// A work-group takes CHUNK elements of a row at a time, from j = start to n.
#define FOR_UNITS                                                                                                      \
    const long chunks = (t->n + CHUNK - 1) / CHUNK, units = t->rows * chunks, groups = get_num_groups(1);              \
    long at[ARGS];                                                                                                     \
    for (long u = units * get_group_id(1) / groups; u < units * (get_group_id(1) + 1) / groups; u++)                   \
        if (enter(t, u / chunks, at))                                                                                  \
            for (long n = min(t->n, (u % chunks + 1) * CHUNK), j = u % chunks * CHUNK + LANE * VEC; j < n; j += STEP)

#ifdef OP_copy

// x in y's dtype: of floating dtypes rounded to the nearest.
__kernel void copy(const Task task, const __global IN0 *x, __global OUT0 *y) {
    const Task *t = &task;
    FOR_UNITS put0(t, y + at[1], j, n, take0(t, x + at[0], j, n, 0));
}

#endif
