// Talking to the server: queries by POST, subscriptions over WebSocket (graphql-transport-ws).

export async function query(text, variables, operationName, headers, signal) {
  const response = await fetch("/graphql", {
    method: "POST",
    headers: { ...headers, "Content-Type": "application/json", Accept: "application/json" },
    body: JSON.stringify({ query: text, variables, operationName }),
    signal,
  });
  const body = await response.text();
  try {
    return { answer: JSON.parse(body), size: body.length, text: body };
  } catch {
    throw new Error(`${response.status} ${response.statusText}: ${body.slice(0, 500)}`);
  }
}

// subscribe returns a function that ends the subscription. on has next(answer), error(text), done().
export function subscribe(text, variables, operationName, headers, on) {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(`${scheme}//${location.host}/graphql`, "graphql-transport-ws");
  let over = false;
  const end = (tell) => {
    if (over) return;
    over = true;
    socket.close(1000);
    tell();
  };
  socket.onopen = () => socket.send(JSON.stringify({ type: "connection_init", payload: headers }));
  socket.onmessage = (m) => {
    if (over) return;
    const frame = JSON.parse(m.data);
    switch (frame.type) {
      case "connection_ack":
        socket.send(JSON.stringify({ id: "1", type: "subscribe", payload: { query: text, variables, operationName } }));
        break;
      case "ping":
        socket.send(JSON.stringify({ type: "pong" }));
        break;
      case "next":
        on.next(frame.payload);
        break;
      case "error":
        on.next({ errors: frame.payload });
        end(() => on.error("refused"));
        break;
      case "complete":
        end(() => on.done());
    }
  };
  socket.onclose = (e) => end(() => on.error(`the connection ended (${e.code}${e.reason ? " " + e.reason : ""})`));
  return () => {
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ id: "1", type: "complete" }));
    end(() => on.done());
  };
}
