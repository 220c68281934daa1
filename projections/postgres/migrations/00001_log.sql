-- +goose Up
-- Which log the schemas of this database were built from. One row.
CREATE TABLE shiplog.log (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    identity text NOT NULL,
    since    timestamptz NOT NULL DEFAULT now()
);

-- +goose Down
DROP TABLE shiplog.log;
