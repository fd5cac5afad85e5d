//! The use case: put the documents of a request into a collection. Knows no model library and no store in particular.

use rerank_crds::server_config::Collection;
use serde_json::{Map, Value};

use crate::api::service::NewDocument;
use crate::search::{RequestContext, SearchError, Searcher};
use crate::store::{CollectionSpec, Document, Store, StoreError};

/// Where documents go.
pub struct IndexTarget<'a, Spec> {
    /// The store.
    pub store: &'a dyn Store,
    /// The collection, made where it is missing.
    pub collection: &'a Collection,
    /// What it must be made for; may wait for the embedding model's download.
    pub spec: Spec,
}

/// Embeds documents and stores them; durable when it returns. Answers how many. The documents and the collection are checked
/// before anything is embedded, so that a bad one costs no work.
///
/// # Cancel safety
/// Dropping the future stops the work; documents already stored stay.
pub async fn index_documents<Spec>(
    searcher: &Searcher,
    target: IndexTarget<'_, Spec>,
    documents: Vec<NewDocument>,
    context: &RequestContext,
) -> Result<usize, SearchError>
where
    Spec: Future<Output = Result<CollectionSpec, SearchError>>,
{
    let IndexTarget { store, collection, spec } = target;
    let (texts, rest): (Vec<_>, Vec<_>) =
        documents.into_iter().map(|NewDocument { id, text, payload }| (text, (id, payload))).unzip();
    let payloads: Vec<_> = rest
        .into_iter()
        .zip(&texts)
        .map(|((id, payload), text)| with_text(payload, &collection.text_field, text).map(|payload| (id, payload)))
        .collect::<Result<_, _>>()?;
    let spec = spec.await?;
    match store.check(&collection.name, &spec).await {
        Ok(_) | Err(StoreError::CollectionMissing { .. }) => {}
        Err(error) => return Err(SearchError::Store(error)),
    }
    let vectors = searcher.embed_documents(&texts, context).await?;
    let documents: Vec<Document> =
        payloads.into_iter().zip(vectors).map(|((id, payload), vector)| Document { id, vector, payload }).collect();
    let indexed = documents.len();
    store.ensure_collection(&collection.name, &spec).await.map_err(SearchError::Store)?;
    store.upsert(&collection.name, documents).await.map_err(SearchError::Store)?;
    Ok(indexed)
}

/// Puts a text at the collection's text field, making the objects on the way.
fn with_text(mut payload: Map<String, Value>, path: &str, text: &str) -> Result<Map<String, Value>, SearchError> {
    let refuse = |message: String, allowed: &str| SearchError::OutOfRange {
        field: "documents",
        message,
        allowed: allowed.to_owned(),
    };
    let mut keys: Vec<&str> = path.split('.').collect();
    let is_plain = |key: &&str| !key.is_empty() && !key.contains(['[', ']', '"']);
    if !keys.iter().all(is_plain) {
        return Err(refuse(
            format!("documents of this collection cannot be sent through the API: its textField is {path:?}"),
            "`rerank-server index` with documents that have the field",
        ));
    }
    let last = keys.pop().unwrap_or(path);
    let mut fields = &mut payload;
    for key in keys {
        let inner = fields.entry(key).or_insert_with(|| Value::Object(Map::new()));
        fields = inner.as_object_mut().ok_or_else(|| {
            refuse(
                format!("payload field {key:?} is in the way of the text at {path:?}"),
                "an object, or nothing there",
            )
        })?;
    }
    if fields.insert(last.to_owned(), Value::String(text.to_owned())).is_some() {
        return Err(refuse(
            format!("payload field {path:?} is where the text is kept"),
            "the text in `text`, and nothing at its place in the payload",
        ));
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn put(payload: Value, path: &str) -> Result<Value, String> {
        let payload = serde_json::from_value(payload).unwrap();
        with_text(payload, path, "Mars").map(Value::Object).map_err(|error| error.to_string())
    }

    #[test]
    fn a_text_goes_to_the_collection_s_text_field() {
        assert_eq!(put(json!({"lang": "en"}), "text"), Ok(json!({"lang": "en", "text": "Mars"})));
        assert_eq!(put(json!({"body": {"n": 1}}), "body.text"), Ok(json!({"body": {"n": 1, "text": "Mars"}})));
        assert_eq!(put(json!({}), "a.b.c"), Ok(json!({"a": {"b": {"c": "Mars"}}})));
    }

    #[test]
    fn a_payload_in_the_way_of_the_text_is_refused() {
        assert!(put(json!({"body": "x"}), "body").unwrap_err().contains("where the text is kept"));
        assert!(put(json!({"body": 1}), "body.text").unwrap_err().contains("in the way"));
        assert!(put(json!({}), "parts[].text").unwrap_err().contains("cannot be sent through the API"));
    }
}
