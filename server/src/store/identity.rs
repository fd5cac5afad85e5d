//! Ids: how a client's document id becomes a point's id and back. Pure.
//!
//! Qdrant's points are named by unsigned integers or UUIDs. A client's id that is either is used as it is; any other
//! text becomes a `UUIDv5` of it, and the text is kept in the payload under [`ID_KEY`].

use serde_json::{Map, Value};
use uuid::Uuid;

use super::DocumentId;

/// Payload key that holds a client's id where the point's id cannot. It never leaves the store.
pub const ID_KEY: &str = "_rerank_id";

/// Point that holds what a collection was made for, see [`super::qdrant`]. No document may have this id.
pub const RECORD_POINT: Uuid = Uuid::from_u128(0x5e0c_a9a4_7d0b_5c58_9d5e_7265_7261_6e6b);

/// Namespace of the `UUIDv5` ids. A fixed value: changing it would orphan every document indexed before.
const NAMESPACE: Uuid = Uuid::from_u128(0x8a6e_0804_2bd0_4672_b79d_d970_2706_4b24);

/// A point's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PointKey {
    /// An unsigned integer.
    Number(u64),
    /// A UUID.
    Uuid(Uuid),
}

impl PointKey {
    /// The point of a document.
    pub fn of(id: &DocumentId) -> Self {
        match id {
            DocumentId::Number(number) => Self::Number(*number),
            DocumentId::Text(text) => Self::of_text(text),
        }
    }

    /// The point of a document whose id is text.
    pub fn of_text(text: &str) -> Self {
        Self::Uuid(Uuid::parse_str(text).unwrap_or_else(|_| Uuid::new_v5(&NAMESPACE, text.as_bytes())))
    }

    /// Whether this is the reserved point that holds a collection's record.
    pub fn is_record(self) -> bool {
        self == Self::Uuid(RECORD_POINT)
    }

    /// The client's id, taken out of the payload where it was kept there.
    pub fn document_id(self, payload: &mut Map<String, Value>) -> DocumentId {
        match (payload.remove(ID_KEY), self) {
            (Some(Value::String(original)), _) => DocumentId::Text(original),
            (_, Self::Number(number)) => DocumentId::Number(number),
            (_, Self::Uuid(uuid)) => DocumentId::Text(uuid.to_string()),
        }
    }
}

/// The text that must be kept in the payload because the point's id does not give it back.
pub fn text_to_keep(id: &DocumentId) -> Option<&str> {
    match id {
        DocumentId::Number(_) => None,
        DocumentId::Text(text) => match Uuid::parse_str(text) {
            Ok(uuid) if uuid.to_string() == *text => None,
            Ok(_) | Err(_) => Some(text),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(id: &DocumentId) -> DocumentId {
        let mut payload = Map::new();
        if let Some(text) = text_to_keep(id) {
            payload.insert(ID_KEY.to_owned(), Value::String(text.to_owned()));
        }
        let back = PointKey::of(id).document_id(&mut payload);
        assert!(payload.is_empty(), "{payload:?}");
        back
    }

    #[test]
    fn every_kind_of_id_comes_back_as_given() {
        for id in [
            DocumentId::Number(0),
            DocumentId::Number(u64::MAX),
            DocumentId::Text("550e8400-e29b-41d4-a716-446655440000".to_owned()),
            DocumentId::Text("550E8400-E29B-41D4-A716-446655440000".to_owned()),
            DocumentId::Text("550e8400e29b41d4a716446655440000".to_owned()),
            DocumentId::Text("doc-1".to_owned()),
            DocumentId::Text("42".to_owned()),
            DocumentId::Text(String::new()),
            DocumentId::Text("日本語/\u{1f600}".to_owned()),
        ] {
            assert_eq!(round_trip(&id), id);
        }
    }

    #[test]
    fn a_number_and_its_digits_as_text_are_different_documents() {
        assert_ne!(PointKey::of(&DocumentId::Number(42)), PointKey::of(&DocumentId::Text("42".to_owned())));
    }

    #[test]
    fn spellings_of_one_uuid_are_one_document() {
        assert_eq!(
            PointKey::of_text("550e8400-e29b-41d4-a716-446655440000"),
            PointKey::of_text("550E8400E29B41D4A716446655440000")
        );
    }

    #[test]
    fn the_point_of_a_text_never_changes() {
        assert_eq!(
            PointKey::of_text("doc-1"),
            PointKey::Uuid(Uuid::new_v5(&Uuid::parse_str("8a6e0804-2bd0-4672-b79d-d97027064b24").unwrap(), b"doc-1"))
        );
    }
}
