//! gRPC for d-engine: peers, services, client
