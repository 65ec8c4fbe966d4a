//! Fields known beforehand: of an earlier batch of the same body, or of the body before it.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields};

/// What is known of a column's field before its values are looked at.
#[derive(Clone, Copy, Default)]
pub(super) struct Known<'f> {
    field: Option<&'f FieldRef>,
    pub(super) is_of_body: bool,
}

impl<'f> Known<'f> {
    /// The field of that name. `is_of_body`: the fields are those of an earlier batch of the same body, whose types stay
    /// as wide as they were; others only spare the building of an equal field, and are looked for at `position` alone.
    pub(super) fn among(fields: Option<&'f Fields>, position: usize, name: &str, is_of_body: bool) -> Self {
        let Some(fields) = fields else { return Self::default() };
        let mut field = fields.get(position).filter(|field| field.name() == name);
        if field.is_none() && is_of_body {
            field = fields.iter().find(|field| field.name() == name);
        }
        Self { field, is_of_body }
    }

    /// The type that an earlier batch of the body gave the column.
    pub(super) fn earlier(self) -> Option<&'f Field> {
        self.field.filter(|_| self.is_of_body).map(AsRef::as_ref)
    }

    /// Those of a struct.
    pub(super) fn members(self) -> Option<&'f Fields> {
        match self.field?.data_type() {
            DataType::Struct(fields) => Some(fields),
            _ => None,
        }
    }

    /// The field, if it is just this.
    pub(super) fn equal(self, name: &str, data_type: &DataType) -> Option<&'f FieldRef> {
        self.field.filter(|field| {
            field.name() == name && field.data_type() == data_type && field.is_nullable() && field.metadata().is_empty()
        })
    }

    /// That of a list.
    pub(super) fn item(self) -> Self {
        let field = match self.field.map(|field| field.data_type()) {
            Some(DataType::List(item)) => Some(item),
            _ => None,
        };
        Self { field, ..self }
    }
}

/// The known fields, if they are just these.
pub(super) fn same_fields<'f>(known: Option<&'f Fields>, fields: &[FieldRef]) -> Option<&'f Fields> {
    known.filter(|known| {
        known.len() == fields.len() && known.iter().zip(fields).all(|(known, field)| Arc::ptr_eq(known, field))
    })
}
