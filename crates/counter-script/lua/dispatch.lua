-- Serves an item on the general path and returns the reply. The part that the item needs is loaded when it is first
-- needed.

local serve_window, serve_bucket
return function(key, kind, position)
  if kind == KIND_BUCKET then
    serve_bucket = serve_bucket or load_bucket()
    return serve_bucket(key, position)
  end
  serve_window = serve_window or load_window()
  return serve_window(key, kind, position)
end
