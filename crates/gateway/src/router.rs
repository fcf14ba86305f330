//! The route table made ready for lookups, and exchanged without a request noticing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use crate::counters::{Counters, ServiceState};
use crate::pool::BackendState;
use crate::route::{Backend, Route, RouteTable};

/// The routes in force. A table that was sent before a request arrived is used for that request.
#[derive(Debug)]
pub(crate) struct Routes {
    table: watch::Receiver<Arc<RouteTable>>,
    router: RwLock<Arc<Router>>,
    counters: Counters,
}

impl Routes {
    pub(crate) fn new(table: watch::Receiver<Arc<RouteTable>>, counters: Counters) -> Self {
        let current = table.borrow().clone();
        let router = Router::new(current, None, &counters);
        Self {
            table,
            router: RwLock::new(Arc::new(router)),
            counters,
        }
    }

    pub(crate) fn current(&self) -> Arc<Router> {
        let table = self.table.borrow().clone();
        {
            let router = self.router.read().unwrap_or_else(PoisonError::into_inner);
            if Arc::ptr_eq(&router.table, &table) {
                return router.clone();
            }
        }
        let mut router = self.router.write().unwrap_or_else(PoisonError::into_inner);
        // Another request may have done it meanwhile, or the table may have been exchanged again.
        let table = self.table.borrow().clone();
        if !Arc::ptr_eq(&router.table, &table) {
            *router = Arc::new(Router::new(table, Some(&router), &self.counters));
        }
        router.clone()
    }
}

/// Where a request goes: a route with the state of its service and of its replicas.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) route: Route,
    pub(crate) backends: Vec<Arc<BackendState>>,
    pub(crate) service: Arc<ServiceState>,
    cursor: Arc<AtomicUsize>,
}

impl Target {
    /// Round robin: every replica once, beginning with the next in turn; replicas that could not
    /// be connected to a moment ago come last.
    pub(crate) fn order(&self) -> Vec<&Arc<BackendState>> {
        let count = self.backends.len();
        let start = self.cursor.fetch_add(1, Ordering::Relaxed) % count.max(1);
        let (after, before) = (&self.backends[start..], &self.backends[..start]);
        let mut order: Vec<_> = after.iter().chain(before).collect();
        if count > 1 {
            order.sort_by_cached_key(|backend| backend.is_suspended());
        }
        order
    }
}

/// Lookup by host, then by path.
#[derive(Debug)]
pub(crate) struct Router {
    table: Arc<RouteTable>,
    /// Each list has the longest path prefix first.
    exact: HashMap<String, Vec<Arc<Target>>>,
    /// Keyed by what follows `*.`.
    wildcard: HashMap<String, Vec<Arc<Target>>>,
    any: Vec<Arc<Target>>,
    backends: HashMap<Backend, Arc<BackendState>>,
}

impl Router {
    /// Keeps the connections to replicas that are in both tables. Those to replicas that are gone
    /// are closed when their last request has ended.
    fn new(table: Arc<RouteTable>, previous: Option<&Router>, counters: &Counters) -> Self {
        let mut router = Self {
            table: table.clone(),
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            any: Vec::new(),
            backends: HashMap::new(),
        };
        for route in &table.routes {
            let backends = route
                .backends
                .iter()
                .map(|backend| router.backend_state(backend, previous))
                .collect();
            let (service, cursor) = counters.service(&route.project, &route.service);
            let target = Arc::new(Target {
                route: route.clone(),
                backends,
                service,
                cursor,
            });
            let host = route.host.as_deref().map(normalized_host);
            match host.as_deref() {
                None | Some("") | Some("*") => router.any.push(target),
                Some(host) => match host.strip_prefix("*.") {
                    Some(suffix) => router
                        .wildcard
                        .entry(suffix.to_owned())
                        .or_default()
                        .push(target),
                    None => router
                        .exact
                        .entry(host.to_owned())
                        .or_default()
                        .push(target),
                },
            }
        }
        let lists = router
            .exact
            .values_mut()
            .chain(router.wildcard.values_mut());
        for list in lists.chain([&mut router.any]) {
            // Stable: of two routes with the same host and path, the first one counts.
            list.sort_by_key(|target| std::cmp::Reverse(prefix(&target.route).len()));
        }
        router
    }

    fn backend_state(&mut self, backend: &Backend, previous: Option<&Router>) -> Arc<BackendState> {
        self.backends
            .entry(backend.clone())
            .or_insert_with(|| {
                previous
                    .and_then(|router| router.backends.get(backend).cloned())
                    .unwrap_or_else(|| Arc::new(BackendState::new(backend.clone())))
            })
            .clone()
    }

    /// The route with the most specific host, and of these with the longest path prefix.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<&Arc<Target>> {
        let host = normalized_host(host);
        let by_path = |list: &'_ Vec<Arc<Target>>| -> Option<usize> {
            list.iter()
                .position(|target| path_matches(prefix(&target.route), path))
        };
        if let Some(list) = self.exact.get(&host)
            && let Some(index) = by_path(list)
        {
            return list.get(index);
        }
        if !self.wildcard.is_empty() {
            let mut rest = host.as_str();
            while let Some((_, suffix)) = rest.split_once('.') {
                if let Some(list) = self.wildcard.get(suffix)
                    && let Some(index) = by_path(list)
                {
                    return list.get(index);
                }
                rest = suffix;
            }
        }
        by_path(&self.any).and_then(|index| self.any.get(index))
    }

    /// The routes as a person would write them, for the page that says that there is none.
    pub(crate) fn table(&self) -> &RouteTable {
        &self.table
    }
}

/// The prefix without its trailing slash: empty for the root.
fn prefix(route: &Route) -> &str {
    route.path_prefix.trim_end_matches('/')
}

fn path_matches(prefix: &str, path: &str) -> bool {
    match path.strip_prefix(prefix) {
        Some(rest) => prefix.is_empty() || rest.is_empty() || rest.starts_with('/'),
        None => false,
    }
}

/// Lower case, without port and without the trailing dot of a fully qualified name.
pub(crate) fn normalized_host(host: &str) -> String {
    let name = if host.starts_with('[') {
        host.split_once(']')
            .map_or(host, |(address, _)| address)
            .trim_start_matches('[')
    } else {
        host.split_once(':').map_or(host, |(name, _)| name)
    };
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: Option<&str>, path: &str, service: &str) -> Route {
        Route {
            host: host.map(str::to_owned),
            path_prefix: path.to_owned(),
            service: service.to_owned(),
            project: "shop".to_owned(),
            backends: Vec::new(),
            unavailable_reason: None,
        }
    }

    fn router(routes: Vec<Route>) -> Router {
        Router::new(Arc::new(RouteTable { routes }), None, &Counters::default())
    }

    fn found<'a>(router: &'a Router, host: &str, path: &str) -> &'a str {
        router
            .find(host, path)
            .map_or("-", |target| target.route.service.as_str())
    }

    #[test]
    fn the_most_specific_host_wins_then_the_longest_path() {
        let router = router(vec![
            route(None, "/", "fallback"),
            route(Some("*.localhost"), "/", "wide"),
            route(Some("*.shop.localhost"), "/", "wild"),
            route(Some("API.shop.localhost"), "/", "api"),
            route(Some("api.shop.localhost"), "/v1/", "api-v1"),
            route(Some("only.path"), "/x", "x"),
            route(Some("only.path"), "/x", "second of the same"),
        ]);
        assert_eq!(found(&router, "api.shop.localhost:8080", "/"), "api");
        assert_eq!(found(&router, "Api.Shop.Localhost.", "/v1"), "api-v1");
        assert_eq!(found(&router, "api.shop.localhost", "/v1/a"), "api-v1");
        assert_eq!(found(&router, "api.shop.localhost", "/v10"), "api");
        assert_eq!(found(&router, "web.shop.localhost", "/"), "wild");
        assert_eq!(found(&router, "a.b.shop.localhost", "/"), "wild");
        assert_eq!(found(&router, "shop.localhost", "/"), "wide");
        assert_eq!(found(&router, "localhost", "/"), "fallback");
        assert_eq!(found(&router, "only.path", "/x/y"), "x");
        assert_eq!(found(&router, "only.path", "/y"), "fallback");
        assert_eq!(found(&router, "[::1]:8080", "/"), "fallback");
        assert_eq!(found(&router, "api.shop.localhost", "*"), "api");
    }

    #[test]
    fn no_route_is_nothing() {
        let router = router(vec![route(Some("a.b"), "/api", "api")]);
        assert_eq!(found(&router, "a.b", "/"), "-");
        assert_eq!(found(&router, "c.d", "/api"), "-");
    }

    #[test]
    fn a_replica_in_both_tables_keeps_its_connections() {
        let backend = |sandbox: &str| Backend {
            address: "127.0.0.1:1".parse().unwrap(),
            sandbox: sandbox.to_owned(),
        };
        let mut first = route(None, "/", "a");
        first.backends = vec![backend("one")];
        let (sender, receiver) = watch::channel(Arc::new(RouteTable {
            routes: vec![first.clone()],
        }));
        let routes = Routes::new(receiver, Counters::default());
        let before = routes.current();
        first.backends = vec![backend("one"), backend("two")];
        sender
            .send(Arc::new(RouteTable {
                routes: vec![first],
            }))
            .unwrap();
        let after = routes.current();
        let old = &before.find("x", "/").unwrap().backends[0];
        let new = &after.find("x", "/").unwrap().backends;
        assert!(Arc::ptr_eq(old, &new[0]));
        assert!(
            !Arc::ptr_eq(old, &new[1]),
            "the same address in another sandbox is another backend"
        );
    }

    #[test]
    fn a_table_from_a_file_needs_the_service_only() {
        let table: RouteTable = serde_json::from_str(
            r#"{"routes":[{"host":"a.b","service":"s","project":"p","backends":[{"address":"10.0.0.2:80","sandbox":"s-1"}]}]}"#,
        )
        .unwrap();
        assert_eq!(table.routes[0].path_prefix, "/");
        let text = serde_json::to_string(&table).unwrap();
        assert_eq!(serde_json::from_str::<RouteTable>(&text).unwrap(), table);
    }
}
