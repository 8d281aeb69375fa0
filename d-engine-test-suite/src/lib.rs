//! The laws that every d-engine storage backend keeps, as tests
