//! Between our types and the messages of Qdrant's protocol. Pure.

use std::collections::HashMap;

use qdrant_client::Payload;
use qdrant_client::qdrant as wire;
use qdrant_client::qdrant::condition::ConditionOneOf;
use qdrant_client::qdrant::r#match::MatchValue;
use qdrant_client::qdrant::point_id::PointIdOptions;
use qdrant_edge as edge;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::store::StoreError;
use crate::store::identity::PointKey;

/// A point's id.
pub(super) fn point_id(key: PointKey) -> wire::PointId {
    let options = match key {
        PointKey::Number(number) => PointIdOptions::Num(number),
        PointKey::Uuid(uuid) => PointIdOptions::Uuid(uuid.to_string()),
    };
    wire::PointId { point_id_options: Some(options) }
}

/// A point's id as Qdrant answered it.
pub(super) fn point_key(id: Option<wire::PointId>) -> Result<PointKey, StoreError> {
    match id.and_then(|id| id.point_id_options) {
        Some(PointIdOptions::Num(number)) => Ok(PointKey::Number(number)),
        Some(PointIdOptions::Uuid(text)) => Uuid::parse_str(&text)
            .map(PointKey::Uuid)
            .map_err(|_| StoreError::Failed { message: format!("it answered a point whose id {text:?} is no UUID") }),
        None => Err(StoreError::Failed { message: "it answered a point without an id".to_owned() }),
    }
}

/// A payload on its way in.
pub(super) fn payload(payload: Map<String, Value>) -> HashMap<String, wire::Value> {
    Payload::from(payload).into()
}

/// A payload on its way out.
pub(super) fn json(payload: HashMap<String, wire::Value>) -> Map<String, Value> {
    Payload::from(payload).into()
}

/// One vector of a point: the unnamed one, or a named one.
pub(super) fn vectors(name: Option<&str>, vector: Vec<f32>) -> wire::Vectors {
    let vector = wire::Vector {
        vector: Some(wire::vector::Vector::Dense(wire::DenseVector { data: vector })),
        ..wire::Vector::default()
    };
    let options = match name {
        None => wire::vectors::VectorsOptions::Vector(vector),
        Some(name) => wire::vectors::VectorsOptions::Vectors(wire::NamedVectors {
            vectors: HashMap::from([(name.to_owned(), vector)]),
        }),
    };
    wire::Vectors { vectors_options: Some(options) }
}

/// No vector at all, which Qdrant allows.
pub(super) fn no_vectors() -> wire::Vectors {
    wire::Vectors { vectors_options: Some(wire::vectors::VectorsOptions::Vectors(wire::NamedVectors::default())) }
}

/// The question for the points nearest to a vector.
pub(super) fn nearest(vector: Vec<f32>) -> wire::Query {
    let dense = wire::vector_input::Variant::Dense(wire::DenseVector { data: vector });
    wire::Query { variant: Some(wire::query::Variant::Nearest(wire::VectorInput { variant: Some(dense) })) }
}

/// Whether payloads are wanted.
pub(super) fn with_payload(wanted: bool) -> wire::WithPayloadSelector {
    wire::WithPayloadSelector { selector_options: Some(wire::with_payload_selector::SelectorOptions::Enable(wanted)) }
}

/// A filter.
///
/// # Errors
/// [`StoreError::InvalidFilter`] for a condition that the protocol does not carry.
pub(super) fn filter(filter: &edge::Filter) -> Result<wire::Filter, StoreError> {
    let edge::Filter { should, min_should, must, must_not } = filter;
    Ok(wire::Filter {
        should: conditions(should.as_deref())?,
        must: conditions(must.as_deref())?,
        must_not: conditions(must_not.as_deref())?,
        min_should: min_should
            .as_ref()
            .map(|edge::MinShould { conditions: some, min_count }| {
                Ok(wire::MinShould { conditions: conditions(Some(some))?, min_count: *min_count as u64 })
            })
            .transpose()?,
    })
}

fn conditions(conditions: Option<&[edge::Condition]>) -> Result<Vec<wire::Condition>, StoreError> {
    conditions.unwrap_or_default().iter().map(condition).collect()
}

fn condition(condition: &edge::Condition) -> Result<wire::Condition, StoreError> {
    let one_of = match condition {
        edge::Condition::Field(field) => ConditionOneOf::Field(field_condition(field)),
        edge::Condition::IsEmpty(empty) => {
            ConditionOneOf::IsEmpty(wire::IsEmptyCondition { key: empty.is_empty.key.to_string() })
        }
        edge::Condition::IsNull(null) => {
            ConditionOneOf::IsNull(wire::IsNullCondition { key: null.is_null.key.to_string() })
        }
        edge::Condition::HasId(ids) => {
            let mut keys: Vec<edge::PointId> = ids.has_id.iter().copied().collect();
            // The set has no order of its own; one order makes equal filters equal messages.
            keys.sort_unstable();
            ConditionOneOf::HasId(wire::HasIdCondition { has_id: keys.into_iter().map(edge_point_id).collect() })
        }
        edge::Condition::HasVector(vector) => {
            ConditionOneOf::HasVector(wire::HasVectorCondition { has_vector: vector.has_vector.clone() })
        }
        edge::Condition::Filter(inner) => ConditionOneOf::Filter(filter(inner)?),
        edge::Condition::CustomIdChecker(_) => {
            return Err(StoreError::InvalidFilter { message: "a condition has no form in JSON".to_owned() });
        }
    };
    Ok(wire::Condition { condition_one_of: Some(one_of) })
}

fn edge_point_id(id: edge::PointId) -> wire::PointId {
    point_id(match id {
        edge::PointId::NumId(number) => PointKey::Number(number),
        edge::PointId::Uuid(uuid) => PointKey::Uuid(uuid),
    })
}

fn field_condition(field: &edge::FieldCondition) -> wire::FieldCondition {
    let edge::FieldCondition {
        key,
        r#match,
        range,
        geo_bounding_box,
        geo_radius,
        geo_polygon,
        values_count,
        is_empty,
        is_null,
    } = field;
    let (range, datetime_range) = match range {
        Some(edge::RangeInterface::Float(range)) => (Some(float_range(range)), None),
        Some(edge::RangeInterface::DateTime(range)) => (None, Some(datetime_bounds(range))),
        None => (None, None),
    };
    wire::FieldCondition {
        key: key.to_string(),
        r#match: r#match.as_ref().map(match_value),
        range,
        datetime_range,
        geo_bounding_box: geo_bounding_box.map(|area| wire::GeoBoundingBox {
            top_left: Some(geo_point(area.top_left)),
            bottom_right: Some(geo_point(area.bottom_right)),
        }),
        geo_radius: geo_radius.map(geo_circle),
        geo_polygon: geo_polygon.as_ref().map(|polygon| wire::GeoPolygon {
            exterior: Some(geo_line(&polygon.exterior.points)),
            interiors: polygon.interiors.iter().flatten().map(|line| geo_line(&line.points)).collect(),
        }),
        values_count: values_count.map(|edge::ValuesCount { lt, gt, gte, lte }| wire::ValuesCount {
            lt: lt.map(|count| count as u64),
            gt: gt.map(|count| count as u64),
            gte: gte.map(|count| count as u64),
            lte: lte.map(|count| count as u64),
        }),
        is_empty: *is_empty,
        is_null: *is_null,
    }
}

fn match_value(value: &edge::Match) -> wire::Match {
    use edge::{AnyVariants, Match, ValueVariants};

    let value = match value {
        Match::Value(value) => match &value.value {
            ValueVariants::String(text) => MatchValue::Keyword(text.clone()),
            ValueVariants::Integer(number) => MatchValue::Integer(*number),
            ValueVariants::Bool(flag) => MatchValue::Boolean(*flag),
        },
        Match::Text(text) => MatchValue::Text(text.text.clone()),
        Match::TextAny(text) => MatchValue::TextAny(text.text_any.clone()),
        Match::Phrase(phrase) => MatchValue::Phrase(phrase.phrase.clone()),
        Match::Any(any) => match &any.any {
            AnyVariants::Strings(texts) => MatchValue::Keywords(strings(texts.iter())),
            AnyVariants::Integers(numbers) => MatchValue::Integers(integers(numbers.iter())),
        },
        Match::Except(except) => match &except.except {
            AnyVariants::Strings(texts) => MatchValue::ExceptKeywords(strings(texts.iter())),
            AnyVariants::Integers(numbers) => MatchValue::ExceptIntegers(integers(numbers.iter())),
        },
    };
    wire::Match { match_value: Some(value) }
}

fn strings<'a>(texts: impl Iterator<Item = &'a String>) -> wire::RepeatedStrings {
    wire::RepeatedStrings { strings: texts.cloned().collect() }
}

fn integers<'a>(numbers: impl Iterator<Item = &'a i64>) -> wire::RepeatedIntegers {
    wire::RepeatedIntegers { integers: numbers.copied().collect() }
}

fn float_range(range: &edge::Range<edge::external::ordered_float::OrderedFloat<f64>>) -> wire::Range {
    let edge::Range { lt, gt, gte, lte } = range;
    wire::Range {
        lt: lt.map(|bound| bound.0),
        gt: gt.map(|bound| bound.0),
        gte: gte.map(|bound| bound.0),
        lte: lte.map(|bound| bound.0),
    }
}

fn datetime_bounds(range: &edge::Range<edge::DateTimeWrapper>) -> wire::DatetimeRange {
    let stamp = |bound: &edge::DateTimeWrapper| prost_types::Timestamp {
        seconds: bound.0.timestamp(),
        // A leap second counts up to two thousand million nanoseconds, which still fits.
        nanos: i32::try_from(bound.0.timestamp_subsec_nanos()).unwrap_or(i32::MAX),
    };
    let edge::Range { lt, gt, gte, lte } = range;
    wire::DatetimeRange {
        lt: lt.as_ref().map(stamp),
        gt: gt.as_ref().map(stamp),
        gte: gte.as_ref().map(stamp),
        lte: lte.as_ref().map(stamp),
    }
}

fn geo_point(point: edge::GeoPoint) -> wire::GeoPoint {
    wire::GeoPoint { lon: point.lon.0, lat: point.lat.0 }
}

fn geo_line(points: &[edge::GeoPoint]) -> wire::GeoLineString {
    wire::GeoLineString { points: points.iter().copied().map(geo_point).collect() }
}

#[expect(clippy::cast_possible_truncation, reason = "the protocol carries the radius, in metres, as float32")]
fn geo_circle(circle: edge::GeoRadius) -> wire::GeoRadius {
    wire::GeoRadius { center: Some(geo_point(circle.center)), radius: circle.radius.0 as f32 }
}
