//! Values as text: the forms in which DuckDB casts values to `VARCHAR` and back.
//!
//! They are what inlined columns hold that SQLite has no type for, and what statistics hold. Promise: what is written
//! is read back as the same value by DuckDB and by [`read`]; a value for which that cannot be promised has no text
//! form ([`write::value`] says so), and its table is written to a file instead. [`json`] is for values that found no
//! column of their type.

pub(crate) mod calendar;
pub(crate) mod json;
pub(crate) mod nested;
pub(crate) mod read;
pub(crate) mod write;
