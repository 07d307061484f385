DROP TABLE admin_tokens;
DROP TABLE cluster_settings;
