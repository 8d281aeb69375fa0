//! A Raft consensus engine that applications embed, with storage that anyone can plug in
