//! SQL over the lake and over live rows: the only crate that sees DataFusion
