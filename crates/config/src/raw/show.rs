//! Writing single values in the file's own syntax, for `explain`.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderName, StatusCode};
use semel_core::key::KeySource;
use semel_core::route::HeaderCondition;
use semel_core::scope::PrincipalSource;
use serde_json::Value;

use super::reader::{At, OneOrMany};
use super::value::{
    Conditions, CorsOrigin, FilePath, HostName, LogFilter, MaybeZero, Name, Percent, ProbeUrl, SchemaName, Size,
    StreamName,
};
use crate::effective::{Backoff, Cidr, DatabaseUrl, Endpoint, Keep, NatsUrl};
use crate::syntax::{show_duration, show_percent, show_size};

/// How a value is written in the file.
pub(crate) trait Show {
    fn show(&self) -> Value;
}

macro_rules! show {
    ($($type:ty, $show:expr;)*) => {$(
        impl Show for $type {
            fn show(&self) -> Value {
                let show: fn(&Self) -> Value = $show;
                show(self)
            }
        }
    )*};
}

show! {
    bool, |v| (*v).into();
    u32, |v| (*v).into();
    usize, |v| (*v).into();
    StatusCode, |v| v.as_u16().into();
    Duration, |v| show_duration(*v).into();
    MaybeZero, |v| show_duration(v.0).into();
    Keep, |v| match v {
        Self::Forever => "forever".into(),
        Self::For(duration) => show_duration(*duration).into(),
    };
    Size, |v| show_size(v.0).into();
    Percent, |v| show_percent(v.0).into();
    Backoff, |v| format!("{}..{}", show_duration(v.base), show_duration(v.cap)).into();
    Endpoint, |v| format!("http://{}", v.authority()).into();
    DatabaseUrl, |v| v.to_string().into();
    SchemaName, |v| v.0.as_str().into();
    NatsUrl, |v| v.to_string().into();
    StreamName, |v| v.0.as_str().into();
    SocketAddr, |v| v.to_string().into();
    Cidr, |v| v.to_string().into();
    HeaderName, |v| v.as_str().into();
    KeySource, |v| v.to_string().into();
    PrincipalSource, |v| v.to_string().into();
    Name, |v| v.0.as_str().into();
    FilePath, |v| v.0.to_string_lossy().into();
    ProbeUrl, |v| v.0.as_str().into();
    CorsOrigin, |v| v.0.as_str().into();
    HostName, |v| v.0.as_str().into();
    LogFilter, |v| v.0.as_str().into();
    Conditions, |v| {
        let show = |c: &HeaderCondition| {
            let value = c.value.as_ref().map_or(Value::Bool(true), |value| String::from_utf8_lossy(value.as_bytes()).into());
            (c.name.to_string(), value)
        };
        Value::Object(v.0.iter().map(show).collect())
    };
}

impl<T: Show> Show for Vec<At<T>> {
    fn show(&self) -> Value {
        self.iter().map(|item| item.value.show()).collect()
    }
}

impl<T: Show> Show for OneOrMany<T> {
    fn show(&self) -> Value {
        if let [one] = self.0.as_slice() { one.value.show() } else { self.0.show() }
    }
}
