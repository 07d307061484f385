-- Serves an item on the general path and returns the reply. The part that the item needs is loaded when it is first
-- needed.

local serve_window, serve_import, serve_transfer, serve_bucket
return function(key, kind, position)
  if kind == KIND_BUCKET then
    serve_bucket = serve_bucket or load_bucket()
    return serve_bucket(key, position)
  end
  if not serve_window then serve_window, serve_import, serve_transfer = load_window() end
  if kind == KIND_GIVE or kind == KIND_TAKE then return serve_transfer(key, kind, position) end
  if kind > IMPORT and kind < KIND_COMPACT then return serve_import(key, kind, position) end
  return serve_window(key, kind, position)
end
