// Queries to begin with.
export const examples = [
  ["Where the log stands", `{
  head {
    position
    time
    historyPosition
  }
}
`],
  ["Pods, and where they run", `query Pods($asOf: AsOf) {
  pods(asOf: $asOf) {
    totalCount
    nodes {
      id
      phase
      ready
      restarts
      node {
        name
        ready
      }
      owner {
        id
      }
    }
    pageInfo {
      position
    }
  }
}
`],
  ["A rollout: deployment, replica sets, pods", `query Rollouts($asOf: AsOf) {
  deployments(asOf: $asOf) {
    nodes {
      name
      desired
      updated
      available
      revision
      images
      replicaSets {
        name
        desired
        ready
        pods {
          nodes {
            name
            phase
            nodeName
          }
        }
      }
    }
  }
}
`],
  ["What happened lately", `query Lately($asOf: AsOf) {
  events(first: 20, asOf: $asOf) {
    nodes {
      position
      time
      type
      ref {
        id
      }
      actor {
        user
      }
      fieldChanges {
        path
        before
        after
      }
    }
  }
}
`],
  ["Why is a pod where it is", `query Why($name: String!, $asOf: AsOf) {
  pod(name: $name, asOf: $asOf) {
    nodeName
    binding {
      time
      evidence
      actor {
        user
      }
      cause {
        type
        cause {
          type
          cause {
            type
            actor {
              user
              userAgent
            }
          }
        }
      }
    }
  }
}
`, `{ "name": "web" }`],
  ["What changed in the last ten minutes", `query Changed($kind: String!, $name: String!) {
  diff(kind: $kind, name: $name, from: "-10m") {
    from
    to
    changes {
      path
      before
      after
    }
  }
}
`, `{ "kind": "deployment", "name": "web" }`],
  ["A service, from its ports to its pods", `query Services($asOf: AsOf) {
  services(asOf: $asOf) {
    nodes {
      id
      type
      clusterIP
      ports {
        port
        targetPort
        nodePort
      }
      endpoints {
        addresses
        ready
        pod {
          name
          node {
            name
          }
        }
      }
    }
  }
}
`],
  ["Any kind of object", `query Any($kind: String!, $asOf: AsOf) {
  objects(kind: $kind, asOf: $asOf) {
    totalCount
    nodes {
      id
      field(path: "spec")
    }
  }
}
`, `{ "kind": "endpointslices" }`],
  ["Follow the log, from its beginning", `subscription Follow($after: Position) {
  events(after: $after) {
    position
    time
    type
    ref {
      id
    }
    actor {
      user
    }
  }
}
`, `{ "after": 0 }`],
  ["Watch pods", `subscription Watch {
  objects(kind: "pods") {
    type
    position
    object {
      id
      ... on Pod {
        phase
        nodeName
      }
    }
    event {
      type
    }
  }
}
`],
];
