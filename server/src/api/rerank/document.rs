//! A document of a request: a text, or an object with the text under `text`, as Cohere's first version and Jina take it.

use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

/// The text of one document.
#[derive(Debug, ToSchema)]
#[schema(as = DocumentText, value_type = DocumentShape)]
pub(in crate::api) struct DocumentText(String);

/// A document as sent, for its description.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "`DocumentText` reads both")]
enum DocumentShape {
    /// A text.
    Text(String),
    /// An object with a text; its other fields are ignored.
    Object { text: String },
}

impl DocumentText {
    pub(in crate::api) fn into_text(self) -> String {
        self.0
    }
}

impl<'de> Deserialize<'de> for DocumentText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Document;

        impl<'de> Visitor<'de> for Document {
            type Value = DocumentText;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string or an object with the string `text`")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<DocumentText, E> {
                Ok(DocumentText(text.to_owned()))
            }

            fn visit_string<E: serde::de::Error>(self, text: String) -> Result<DocumentText, E> {
                Ok(DocumentText(text))
            }

            fn visit_map<Access: MapAccess<'de>>(self, mut map: Access) -> Result<DocumentText, Access::Error> {
                let mut text = None;
                while let Some(key) = map.next_key::<String>()? {
                    if key == "text" {
                        if text.is_some() {
                            return Err(Access::Error::duplicate_field("text"));
                        }
                        text = Some(map.next_value::<String>()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                text.map(DocumentText).ok_or_else(|| Access::Error::missing_field("text"))
            }
        }

        deserializer.deserialize_any(Document)
    }
}
