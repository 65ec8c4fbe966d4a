//! Port classes of RFC 6335 and service names of the IANA registry.
