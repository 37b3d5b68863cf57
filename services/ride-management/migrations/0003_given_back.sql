-- The driver who gave the ride back before its pickup, if one did: the answer that names this driver may still be on its
-- way, and must not match the ride once more.
ALTER TABLE ride ADD COLUMN given_back_by uuid;
