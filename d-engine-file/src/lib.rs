//! File storage for d-engine: a segmented write-ahead log, slot files and a checkpointed map
