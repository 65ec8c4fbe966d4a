//! Pure logic on the contracts: the coordinator, its schedule and the state of sources
