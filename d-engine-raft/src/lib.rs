//! Sans-IO Raft: decides, never does
