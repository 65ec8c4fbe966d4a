//! Real servers, a fault proxy, ledgers and conformance suites for the tests
