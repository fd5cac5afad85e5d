//! `GET /openapi.json`: the API's description, made from the handlers and the wire types. Pure.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use utoipa::openapi::path::{HttpMethod, Operation};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OneOfBuilder, Ref, RefOr, ResponseBuilder, Schema};
use utoipa::{OpenApi, ToSchema};

use super::ApiState;
use super::dialect::Dialect;
use super::error::{ApiError, ErrorBody, ErrorCode};
use super::{ApiSettings, documents, embeddings, exists, model_control, models, rerank, score, search};

/// Name of the security scheme.
const BEARER: &str = "bearer";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "rerank-server",
        description = "Two-stage search and reranking. Formats and codes of other servers' clients: docs/formats.md.",
        license(name = "Apache-2.0")
    ),
    paths(
        search::get,
        search::post,
        search::batch,
        documents::post,
        rerank::post,
        rerank::post_either,
        rerank::cohere::post,
        score::post,
        embeddings::post,
        models::get,
        model_control::load,
        model_control::unload
    ),
    components(schemas(ErrorBody, CohereError, OpenAiError, TextEmbeddingsInferenceError))
)]
struct Handlers;

/// An error on `/v2/rerank`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `Dialect::body` makes")]
struct CohereError {
    id: String,
    message: String,
}

/// An error on the routes of `OpenAI` and vLLM.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `Dialect::body` makes")]
struct OpenAiError {
    error: OpenAiErrorDetail,
}

/// What is wrong.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `Dialect::body` makes")]
struct OpenAiErrorDetail {
    message: String,
    r#type: String,
    param: Option<String>,
    code: ErrorCode,
}

/// An error on `/rerank` with `texts`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `Dialect::body` makes")]
struct TextEmbeddingsInferenceError {
    error: String,
    error_type: String,
}

/// `GET /openapi.json`.
pub(super) async fn get(State(state): State<ApiState>) -> Json<utoipa::openapi::OpenApi> {
    Json(document(&state.settings, state.keys.is_some()))
}

/// The whole description. `with_keys`: a key is asked for.
pub(super) fn document(settings: &ApiSettings, with_keys: bool) -> utoipa::openapi::OpenApi {
    let mut document = Handlers::openapi();
    let paths = &mut document.paths.paths;
    if let Some(score) = paths.get("/v1/score").cloned() {
        paths.insert("/score".to_owned(), score);
    }
    paths.retain(|route, _| exists(settings, route));
    for (route, item) in paths.iter_mut() {
        for (method, operation) in [(HttpMethod::Get, &mut item.get), (HttpMethod::Post, &mut item.post)] {
            let Some(operation) = operation else { continue };
            let verb = if method == HttpMethod::Get { "get" } else { "post" };
            operation.operation_id = Some(format!("{verb}{}", route.replace('/', "_")));
            add_errors(operation, route, &method, with_keys);
        }
    }
    if with_keys {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.security_schemes.insert(BEARER.to_owned(), SecurityScheme::Http(scheme));
        document.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>(BEARER, [])]);
    }
    document
}

/// Adds what a route can answer instead of 200, each status with the codes behind it.
fn add_errors(operation: &mut Operation, route: &str, method: &HttpMethod, with_keys: bool) {
    let mut meanings: BTreeMap<u16, Vec<&'static str>> = BTreeMap::new();
    let dialects = dialects(route);
    for code in ErrorCode::ALL.into_iter().filter(|code| is_possible(*code, route, method, with_keys)) {
        for dialect in dialects {
            // A field changes the status of one case only; see `Dialect::status`.
            for error in [ApiError::new(code, ""), ApiError::new(code, "").field("texts")] {
                let names = meanings.entry(dialect.status(&error).as_u16()).or_default();
                if !names.contains(&code.as_str()) {
                    names.push(code.as_str());
                }
            }
        }
    }
    for (status, codes) in meanings {
        let response = ResponseBuilder::new()
            .description(codes.join(", "))
            .content("application/json", ContentBuilder::new().schema(Some(error_schema(dialects))).build());
        operation.responses.responses.insert(status.to_string(), RefOr::T(response.build()));
    }
}

fn dialects(route: &str) -> &'static [Dialect] {
    match (route, Dialect::of_route(route)) {
        ("/rerank", _) => &[Dialect::Own, Dialect::TextEmbeddingsInference],
        (_, Dialect::Cohere) => &[Dialect::Cohere],
        (_, Dialect::OpenAi) => &[Dialect::OpenAi],
        _ => &[Dialect::Own],
    }
}

fn error_schema(dialects: &[Dialect]) -> RefOr<Schema> {
    let name = |dialect: &Dialect| match dialect {
        Dialect::Own => "ErrorBody",
        Dialect::Cohere => "CohereError",
        Dialect::OpenAi => "OpenAiError",
        Dialect::TextEmbeddingsInference => "TextEmbeddingsInferenceError",
    };
    match dialects {
        [one] => RefOr::Ref(Ref::from_schema_name(name(one))),
        several => {
            let either = several
                .iter()
                .fold(OneOfBuilder::new(), |either, dialect| either.item(Ref::from_schema_name(name(dialect))));
            RefOr::T(Schema::OneOf(either.build()))
        }
    }
}

/// Whether an operation can meet an error. Where in doubt it can.
fn is_possible(code: ErrorCode, route: &str, method: &HttpMethod, with_keys: bool) -> bool {
    let searches = route.starts_with("/search");
    let stores = searches || route == "/documents";
    let lists_models = route == "/v1/models";
    let controls_models = route.starts_with("/v1/models/");
    let has_body = *method == HttpMethod::Post;
    match code {
        // Those who see them have not called the operation, or are gone.
        ErrorCode::NotFound | ErrorCode::MethodNotAllowed | ErrorCode::ClientClosedRequest => false,
        ErrorCode::Unauthorized => with_keys,
        ErrorCode::Forbidden => controls_models || stores,
        ErrorCode::ModelInUse => controls_models,
        ErrorCode::Internal | ErrorCode::HeadersTooLarge | ErrorCode::EngineLost => true,
        _ if lists_models => false,
        ErrorCode::RequestTimeout | ErrorCode::UnsupportedMediaType => has_body,
        ErrorCode::InvalidFilter => searches,
        ErrorCode::UnknownCollection
        | ErrorCode::SearchNotConfigured
        | ErrorCode::StoreFailed
        | ErrorCode::StoreUnavailable
        | ErrorCode::StoreTimeout => stores,
        ErrorCode::EmbedderUnavailable => stores || controls_models || route == "/v1/embeddings",
        ErrorCode::RerankerUnavailable => !stores && route != "/v1/embeddings",
        ErrorCode::Malformed
        | ErrorCode::UnknownField
        | ErrorCode::UnknownModel
        | ErrorCode::TooLarge
        | ErrorCode::OutOfRange
        | ErrorCode::TooManyRequests
        | ErrorCode::Overloaded
        | ErrorCode::DeadlineExceeded => true,
    }
}
