"""The scheduler of one capacity pool: `PoolState.apply(event)`, `decide(now)`, `explain(job, now)`."""
