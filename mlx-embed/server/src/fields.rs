//! The fields of a request's body.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::HttpBody;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Json, Request};
use axum::http::{StatusCode, header};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};

use crate::app::App;
use crate::error::ApiError;

/// A body of JSON, an object of `T`'s fields. Clients that write all that they know send a null for what they leave out, so
/// a null is as good as no field, even of a field that isn't known.
pub(crate) struct Fields<T>(pub(crate) T);

impl<T: for<'de> Deserialize<'de>> FromRequest<Arc<App>> for Fields<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let most = app.limits.body_bytes;
        let too_large = || {
            let message =
                format!("the body has more than {most} bytes (limits.body-bytes); send several requests");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
        };
        let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        if length.and_then(|length| length.parse::<u64>().ok()).is_some_and(|length| length > most as u64) {
            // Who waits for `100 Continue` needn't send it. Others write to the end before they read an answer, and find
            // the connection broken where nobody reads that.
            if !request.headers().contains_key(header::EXPECT) {
                let mut body = request.into_body();
                while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {}
            }
            return Err(too_large());
        }
        match Json::<Object<T>>::from_request(request, app).await {
            Ok(Json(Object(fields))) => Ok(Self(fields)),
            Err(JsonRejection::BytesRejection(error)) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(too_large())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What is read from an object alone: serde's structs are read from arrays, too, by the order of their fields.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        T::deserialize(AsObject(from)).map(Self)
    }
}

struct AsObject<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for AsObject<D> {
    type Error = D::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(Known { fields, visitor })
    }

    // The rest is for what is no struct, so for no request.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Reads a struct's fields with `visitor`.
struct Known<V> {
    fields: &'static [&'static str],
    visitor: V,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Known<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with the fields {}", self.fields.join(", "))
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<V::Value, M::Error> {
        self.visitor.visit_map(WithoutNulls { fields: self.fields, map })
    }
}

/// An object without those fields that are neither known nor have a value.
struct WithoutNulls<M> {
    fields: &'static [&'static str],
    map: M,
}

impl<'de, M: MapAccess<'de>> MapAccess<'de> for WithoutNulls<M> {
    type Error = M::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, M::Error> {
        while let Some(key) = self.map.next_key::<String>()? {
            if self.fields.contains(&key.as_str()) {
                return seed.deserialize(key.into_deserializer()).map(Some);
            }
            if self.map.next_value::<Option<IgnoredAny>>()?.is_some() {
                return Err(M::Error::unknown_field(&key, self.fields));
            }
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, M::Error> {
        self.map.next_value_seed(seed)
    }
}
