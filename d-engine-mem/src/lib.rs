//! In-memory storage for d-engine: volatile, for tests
