//! Filters of the protocol as the engine takes them. They go through Qdrant's JSON, which names every field once more
//! and so shows a field that the client put in the wrong place.

use qdrant_client::qdrant as wire;
use qdrant_client::qdrant::condition::ConditionOneOf;
use qdrant_client::qdrant::r#match::MatchValue;
use qdrant_client::qdrant::point_id::PointIdOptions;
use qdrant_edge::{DateTimeWrapper, Filter};
use serde_json::{Map, Value, json};
use tonic::Status;

pub(super) fn read(filter: wire::Filter) -> Result<Filter, Status> {
    serde_json::from_value(filter_json(filter)?).map_err(|error| bad(&error.to_string()))
}

fn bad(message: &str) -> Status {
    Status::invalid_argument(format!("Wrong input: {message}"))
}

fn filter_json(filter: wire::Filter) -> Result<Value, Status> {
    let wire::Filter { should, must, must_not, min_should } = filter;
    let mut clauses = Map::new();
    for (name, conditions) in [("should", should), ("must", must), ("must_not", must_not)] {
        if !conditions.is_empty() {
            clauses.insert(name.to_owned(), conditions_json(conditions)?);
        }
    }
    if let Some(wire::MinShould { conditions, min_count }) = min_should {
        let value = json!({"conditions": conditions_json(conditions)?, "min_count": min_count});
        clauses.insert("min_should".to_owned(), value);
    }
    Ok(Value::Object(clauses))
}

fn conditions_json(conditions: Vec<wire::Condition>) -> Result<Value, Status> {
    conditions.into_iter().map(condition_json).collect()
}

fn condition_json(condition: wire::Condition) -> Result<Value, Status> {
    Ok(match condition.condition_one_of.ok_or_else(|| bad("Malformed Condition type"))? {
        ConditionOneOf::Field(field) => field_json(field)?,
        ConditionOneOf::IsEmpty(empty) => json!({"is_empty": {"key": empty.key}}),
        ConditionOneOf::IsNull(null) => json!({"is_null": {"key": null.key}}),
        ConditionOneOf::HasId(ids) => {
            let ids: Result<Value, Status> = ids
                .has_id
                .into_iter()
                .map(|id| match id.point_id_options {
                    Some(PointIdOptions::Num(number)) => Ok(json!(number)),
                    Some(PointIdOptions::Uuid(uuid)) => Ok(json!(uuid)),
                    None => Err(bad("Malformed id")),
                })
                .collect();
            json!({"has_id": ids?})
        }
        ConditionOneOf::HasVector(vector) => json!({"has_vector": vector.has_vector}),
        ConditionOneOf::Filter(filter) => filter_json(filter)?,
        ConditionOneOf::Nested(nested) => {
            let filter = nested.filter.ok_or_else(|| bad("Nested filter is missing"))?;
            json!({"nested": {"key": nested.key, "filter": filter_json(filter)?}})
        }
        ConditionOneOf::Slice(_) => return Err(Status::unimplemented("the test server does not know slices")),
    })
}

fn field_json(field: wire::FieldCondition) -> Result<Value, Status> {
    let wire::FieldCondition {
        key,
        r#match,
        range,
        geo_bounding_box,
        geo_radius,
        values_count,
        geo_polygon,
        datetime_range,
        is_empty,
        is_null,
    } = field;
    let mut condition = Map::from_iter([("key".to_owned(), json!(key))]);
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            condition.insert(name.to_owned(), value);
        }
    };
    put("match", r#match.map(match_json).transpose()?);
    put("range", range.map(|wire::Range { lt, gt, gte, lte }| json!({"lt": lt, "gt": gt, "gte": gte, "lte": lte})));
    put("range", datetime_range.map(datetime_json).transpose()?);
    put(
        "geo_bounding_box",
        geo_bounding_box
            .map(|area| json!({"top_left": point_json(area.top_left), "bottom_right": point_json(area.bottom_right)})),
    );
    put("geo_radius", geo_radius.map(|circle| json!({"center": point_json(circle.center), "radius": circle.radius})));
    put(
        "geo_polygon",
        geo_polygon.map(|polygon| {
            let interiors: Vec<Value> = polygon.interiors.into_iter().map(line_json).collect();
            json!({"exterior": polygon.exterior.map(line_json), "interiors": interiors})
        }),
    );
    put(
        "values_count",
        values_count.map(|wire::ValuesCount { lt, gt, gte, lte }| json!({"lt": lt, "gt": gt, "gte": gte, "lte": lte})),
    );
    put("is_empty", is_empty.map(Value::Bool));
    put("is_null", is_null.map(Value::Bool));
    Ok(Value::Object(condition))
}

fn match_json(value: wire::Match) -> Result<Value, Status> {
    Ok(match value.match_value.ok_or_else(|| bad("Malformed Match condition"))? {
        MatchValue::Keyword(text) => json!({"value": text}),
        MatchValue::Integer(number) => json!({"value": number}),
        MatchValue::Boolean(flag) => json!({"value": flag}),
        MatchValue::Text(text) => json!({"text": text}),
        MatchValue::TextAny(text) => json!({"text_any": text}),
        MatchValue::Phrase(text) => json!({"phrase": text}),
        MatchValue::Keywords(texts) => json!({"any": texts.strings}),
        MatchValue::Integers(numbers) => json!({"any": numbers.integers}),
        MatchValue::ExceptKeywords(texts) => json!({"except": texts.strings}),
        MatchValue::ExceptIntegers(numbers) => json!({"except": numbers.integers}),
        MatchValue::Prefix(_) | MatchValue::Substring(_) => {
            return Err(Status::unimplemented("the test server does not know this match"));
        }
    })
}

fn datetime_json(range: wire::DatetimeRange) -> Result<Value, Status> {
    let wire::DatetimeRange { lt, gt, gte, lte } = range;
    let mut bounds = Map::new();
    for (name, bound) in [("lt", lt), ("gt", gt), ("gte", gte), ("lte", lte)] {
        if let Some(stamp) = bound {
            let date = DateTimeWrapper::from_timestamp(stamp.seconds * 1_000_000 + i64::from(stamp.nanos) / 1_000)
                .ok_or_else(|| bad("Malformed timestamp"))?;
            bounds.insert(name.to_owned(), serde_json::to_value(date).map_err(|error| bad(&error.to_string()))?);
        }
    }
    Ok(Value::Object(bounds))
}

fn point_json(point: Option<wire::GeoPoint>) -> Value {
    point.map_or(Value::Null, |point| json!({"lon": point.lon, "lat": point.lat}))
}

fn line_json(line: wire::GeoLineString) -> Value {
    let points: Vec<Value> = line.points.into_iter().map(|point| point_json(Some(point))).collect();
    json!({ "points": points })
}
