//! The deterministic simulator: driver and core on a simulated disk, network and clock. Being written.
