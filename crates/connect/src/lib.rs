//! The connectors: one module per protocol, the registry, the shared transport
