//! Names to addresses, for as long as the name servers say.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Instant;

use hickory_resolver::TokioResolver;

/// An answer, or why there is none.
pub type ResolveFuture<'a> = Pin<Box<dyn Future<Output = Result<Addresses, String>> + Send + 'a>>;

/// The addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// In no order that means anything.
    pub ips: Vec<IpAddr>,
    /// Until then they hold.
    pub until: Instant,
}

/// Resolves names.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of a name; `Err` says why they are not known now.
    fn resolve<'a>(&'a self, name: &'a str) -> ResolveFuture<'a>;
}

/// By the machine's own settings: its name servers, search domains and hosts file.
#[derive(Debug)]
pub struct SystemResolver(TokioResolver);

impl SystemResolver {
    /// Reads the machine's settings.
    ///
    /// # Errors
    /// Why they cannot be used.
    pub fn new() -> Result<Self, String> {
        let builder = TokioResolver::builder_tokio().map_err(|error| error.to_string())?;
        builder.build().map(Self).map_err(|error| error.to_string())
    }
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str) -> ResolveFuture<'a> {
        Box::pin(async move {
            let found = self.0.lookup_ip(name).await.map_err(|error| error.to_string())?;
            Ok(Addresses { ips: found.iter().collect(), until: found.valid_until() })
        })
    }
}
