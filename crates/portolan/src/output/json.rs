//! JSON: one document, or one object a line. Columns that hold JSON are embedded, not quoted.

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use portolan_model::Result;

use super::cell;
use super::target::{flush, put};
use super::{Flow, Options, Sink, Writer};

pub(super) fn open_document(sink: Sink, options: &Options) -> Box<dyn Writer> {
    Box::new(Document { sink, named: options.named, results: 0, rows: 0, text: String::new() })
}

pub(super) fn open_lines(sink: Sink, options: &Options) -> Box<dyn Writer> {
    Box::new(Lines { sink, named: options.named, prefix: String::new(), text: String::new() })
}

/// `[row, …]`, or `{name: [row, …], …}`.
struct Document {
    sink: Sink,
    named: bool,
    results: usize,
    rows: usize,
    text: String,
}

impl Writer for Document {
    fn begin(&mut self, name: &str, _: &SchemaRef) -> Result<()> {
        self.text.clear();
        if self.named {
            self.text.push_str(if self.results == 0 { "{\n" } else { ",\n" });
            cell::quote(name, &mut self.text);
            self.text.push_str(": ");
        }
        self.text.push('[');
        self.results += 1;
        self.rows = 0;
        put(&mut self.sink, &self.text)
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<Flow> {
        for row in 0..batch.num_rows() {
            self.text.clear();
            self.text.push_str(if self.rows == 0 { "\n" } else { ",\n" });
            object(batch, row, &mut self.text)?;
            self.rows += 1;
            put(&mut self.sink, &self.text)?;
        }
        Ok(Flow::More)
    }

    fn end(&mut self, _: bool) -> Result<()> {
        put(&mut self.sink, if self.rows == 0 { "]" } else { "\n]" })
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        let end = match (self.named, self.results) {
            (true, 0) => "{}\n",
            (true, _) => "\n}\n",
            (false, 0) => "[]\n",
            (false, _) => "\n",
        };
        put(&mut self.sink, end)?;
        flush(&mut self.sink)
    }
}

/// One object a line.
struct Lines {
    sink: Sink,
    named: bool,
    prefix: String,
    text: String,
}

impl Writer for Lines {
    fn begin(&mut self, name: &str, _: &SchemaRef) -> Result<()> {
        self.prefix.clear();
        if self.named {
            self.prefix.push_str("{\"source\":");
            cell::quote(name, &mut self.prefix);
            self.prefix.push_str(",\"row\":");
        }
        Ok(())
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<Flow> {
        for row in 0..batch.num_rows() {
            self.text.clear();
            self.text.push_str(&self.prefix);
            object(batch, row, &mut self.text)?;
            self.text.push_str(if self.named { "}\n" } else { "\n" });
            put(&mut self.sink, &self.text)?;
        }
        flush(&mut self.sink)?;
        Ok(Flow::More)
    }

    fn end(&mut self, _: bool) -> Result<()> {
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        flush(&mut self.sink)
    }
}

fn object(batch: &RecordBatch, row: usize, out: &mut String) -> Result<()> {
    out.push('{');
    for (place, (column, field)) in batch.columns().iter().zip(batch.schema_ref().fields()).enumerate() {
        if place > 0 {
            out.push(',');
        }
        cell::quote(field.name(), out);
        out.push(':');
        cell::json_value(column, field, row, out)?;
    }
    out.push('}');
    Ok(())
}
