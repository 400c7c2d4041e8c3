# Varnish as a cache in front of a host of page stores. See docs/hosting.md.
vcl 4.1;

backend host {
    .host = "127.0.0.1";
    .port = "8080";
}

sub vcl_recv {
    if (req.method != "GET" && req.method != "HEAD") {
        return (synth(405));
    }
    # An agent to which a wrong byte came asks again with "no-cache": that renews what is kept.
    if (req.http.Cache-Control ~ "no-cache") {
        set req.hash_always_miss = true;
    }
    return (hash);
}

sub vcl_hash {
    # By whatever name this cache was called: there is one host behind it.
    hash_data(req.url);
    return (lookup);
}

sub vcl_backend_response {
    if (bereq.url ~ "/checkpoint\.json$" || beresp.status >= 500) {
        # The one name that can come to mean something else; and what will be well again.
        set beresp.uncacheable = true;
        set beresp.ttl = 1s;
    } else if (beresp.status == 200) {
        # An object's name is its digest: what is there will never be anything else.
        set beresp.ttl = 365d;
    }
    # Ranges are answered while the rest of the object is still on its way: this is what Varnish does by itself.
    set beresp.do_stream = true;
}

sub vcl_deliver {
    set resp.http.X-Cache = obj.hits;
}
